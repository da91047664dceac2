"""What one fixed decision does at every position of many traces at once: tokens emitted and work, in numpy.

The same accounting as `simulate_step`, vectorised over all starts (a test compares the two, step by step), for best
static search, oracles on a grid and training rows. After the first wrong draft the rest of the step is read off a
roll-out or estimated, as there.
"""

# N rows (positions of all traces, concatenated), E exit layers, K temperatures, W work counts, J draft tokens,
# M rows of branches (of all traces, concatenated), U rows whose outcome is not exact

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from specbound_controller.baselines.signal_score import SignalScore
from specbound_controller.costs import WORK_NAMES, row_shares
from specbound_controller.errors import InputError
from specbound_controller.lookup import LOOKUP_EXIT, NO_TOKEN
from specbound_controller.policy import AnnealedConfidence
from specbound_controller.records import Decision, ExitScore, ExitSignals
from specbound_profiling.log.trace import PromptTrace, interpolate_confidence
from specbound_profiling.replay.exit_signals import position_scores

SignalsAt = tuple[Callable[[int, int, int, float], ExitSignals], int]
"""A trace's way to read an exit's signals, and the row to read them at."""

_NOT_PENDING = np.iinfo(np.int16).max


class TraceBatch:
    """Traces of one log, concatenated along the positions."""

    def __init__(self, traces: Sequence[PromptTrace]) -> None:
        if not traces:
            raise InputError("a log must hold at least one trace, got none")
        if len({(t.exit_layers, t.temperatures) for t in traces}) != 1:
            raise InputError("traces must share exit layers and temperatures; they come from different runs")
        self.traces = tuple(traces)
        self.exit_layers, self.temperatures = traces[0].exit_layers, traces[0].temperatures
        lengths = np.array([t.num_positions for t in traces])
        self.first_row = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        """First row of each trace. (number of traces,)"""
        self.end_row = self.first_row + lengths
        """Row after the last one of each trace. (number of traces,)"""
        self.position = np.concatenate([np.arange(n) for n in lengths])
        """(N,)"""
        self.last_row = np.repeat(self.end_row - 1, lengths)
        """Last row of the trace that the row belongs to. (N,)"""
        self.context_length = np.repeat([t.prompt_length for t in traces], lengths) + self.position
        """Committed tokens before a step that starts at the row. (N,)"""
        self.max_width = np.repeat([t.length_limit for t in traces], lengths) - self.position - 1
        """Tokens still wanted less one: what clips the width. (N,)"""
        self.is_accepted = np.concatenate([t.is_accepted for t in traces])
        """(N, E)"""
        self.is_eos_draft = np.concatenate([np.isin(t.draft_token, list(t.eos_tokens)) for t in traces])
        """(N, E)"""
        self.has_eos = np.repeat([bool(t.eos_tokens) for t in traces], lengths)
        """Whether a draft of the row's trace may be an end token. (N,)"""
        self.lookups = np.concatenate([t.lookups for t in traces])
        """Length, probability and recency of what the context says. (N, 3)"""
        self.branches = BranchBatch(self)

    @property
    def num_rows(self) -> int:
        return len(self.position)

    @cached_property
    def confidence_at(self) -> np.ndarray:
        """(N, E, K)"""
        return np.concatenate([t.confidence_at for t in self.traces])

    def exit_index(self, exit_layer: int) -> int:
        """Column of an exit layer. Raises InputError where it was not recorded."""
        return self.traces[0].exit_index(exit_layer)

    def scores(self, score: ExitScore, exit_layers: Sequence[int], num_layers: int) -> np.ndarray:
        """A score without features at every row and some exits; other columns stay nan. (N, E) float64"""

        def rows() -> Iterator[SignalsAt]:
            for trace in self.traces:
                yield from ((trace.signals, position) for position in range(trace.num_positions))

        return self._scores(score, exit_layers, num_layers, self.confidence_at, rows)

    def branch_scores(self, score: ExitScore, exit_layers: Sequence[int], num_layers: int) -> np.ndarray:
        """The same at the rows of the branches. (M, E) float64"""

        def rows() -> Iterator[SignalsAt]:
            for trace in self.traces:
                num_rows = 0 if trace.branches is None else len(trace.branches.position)
                yield from ((trace.branch_signals, row) for row in range(num_rows))

        return self._scores(score, exit_layers, num_layers, self.branches.confidence_at, rows)

    def _scores(
        self,
        score: ExitScore,
        exit_layers: Sequence[int],
        num_layers: int,
        confidence_at: np.ndarray,
        rows: Callable[[], Iterator[SignalsAt]],
    ) -> np.ndarray:
        scores = np.full(confidence_at.shape[:2], np.nan)
        for exit_layer in exit_layers:
            index, temperature = self.exit_index(exit_layer), score.temperature(exit_layer, num_layers)
            if isinstance(score, AnnealedConfidence) and exit_layer == LOOKUP_EXIT:
                scores[:, index] = confidence_at[:, index, 0]
                continue
            if isinstance(score, AnnealedConfidence):
                scores[:, index] = interpolate_confidence(confidence_at[:, index], self.temperatures, temperature)
                continue
            found = (signals(row, index, 0, temperature) for signals, row in rows())
            scores[:, index] = [score(each, None) if each.draft_token != NO_TOKEN else 0.0 for each in found]
        return scores


class BranchBatch:
    """The branches of a batch's traces, concatenated; rows of one branch stand together."""

    def __init__(self, batch: TraceBatch) -> None:
        traces, num_exits = batch.traces, len(batch.exit_layers)
        self.first = np.full((batch.num_rows, num_exits), -1)
        """First row of the branch that an exit's wrong draft at a row begins, -1 where none was followed. (N, E)"""
        ends, along, first_row = [], [], 0
        found = [trace.branches for trace in traces if trace.branches is not None]
        for trace, first in zip(traces, batch.first_row, strict=True):
            if trace.branches is None:
                continue
            for (position, exit_layer), rows in trace.branches.rows.items():
                self.first[first + position, batch.exit_index(exit_layer)] = first_row + rows.start
                ends.append(np.full(len(rows), first_row + rows.stop))
                along.append(np.full(len(rows), batch.exit_index(exit_layer)))
            first_row += len(trace.branches.position)
        self.end = np.concatenate([np.zeros(0, dtype=np.int64), *ends])
        """Row after the last one of the row's branch. (M,)"""
        self.along = np.concatenate([np.zeros(0, dtype=np.int64), *along])
        """Exit index whose drafts the branch goes along. (M,)"""
        self.is_lookup_only = np.concatenate([np.zeros(0, dtype=bool), *(b.is_lookup_only for b in found)])
        """Rows that say what the context says, and nothing of other exits. (M,)"""
        self.draft_token = np.concatenate([np.zeros((0, num_exits), dtype=np.int64), *(b.draft_token for b in found)])
        """(M, E)"""
        eos = [np.isin(t.branches.draft_token, list(t.eos_tokens)) for t in traces if t.branches is not None]
        self.is_eos_draft = np.concatenate([np.zeros((0, num_exits), dtype=bool), *eos])
        """(M, E)"""
        self._found, self._shape = found, (0, num_exits, len(batch.temperatures))

    @cached_property
    def confidence_at(self) -> np.ndarray:
        """(M, E, K)"""
        return np.concatenate([np.zeros(self._shape, dtype=np.float32), *(b.confidence_at for b in self._found)])


@dataclass(frozen=True, slots=True, eq=False)
class StepOutcomes:
    """What the decision does in a step that starts at each row. Rows with position 0 begin no step."""

    num_drafted: np.ndarray
    """(N,) int64"""
    num_accepted: np.ndarray
    """(N,) int64"""
    num_emitted: np.ndarray
    """(N,) int64"""
    num_layer_calls: np.ndarray
    """(N,) int64"""
    work: np.ndarray
    """Counts of work in the order of `WORK_NAMES`. (N, W) float64"""
    is_exact: np.ndarray
    """Whether nothing in the step is estimated. (N,) bool"""
    estimated_work: np.ndarray
    """What of `work` is an estimate, in the rows that are not exact: the step's less that of the same step, had its
    draft ended where what the log knows ends. (U, W) float64"""


def step_outcomes(
    batch: TraceBatch,
    decision: Decision,
    num_layers: int,
    scores: np.ndarray | None = None,
    branch_scores: np.ndarray | None = None,
    has_branch_scores: bool = False,
) -> StepOutcomes:
    """Outcome of the decision at every row. A fixed decision is charged with no decision time.

    Args:
        scores: exit scores to compare with the thresholds, (N, E), or (N, J, E) where they depend on the row at
            which the step starts and on the draft index (J >= w_max); None computes the decision's own score
            without features.
        branch_scores: the same at the rows of the branches, (M, E) or (M, J, E), where `scores` are given; without
            them what follows a wrong draft is estimated.
        has_branch_scores: `scores` (N, J, E) hold, after the first wrong draft of an exit, those of its branch where
            there is one, as a decision with one exit meets them; `branch_scores` are not needed then.
    """
    exits = [(batch.exit_index(e), e, threshold) for e, threshold in decision.exits()]
    tested = [e for _, e, threshold in exits if threshold > 0]
    if scores is None and tested:
        assert decision.score is not None  # Decision checks it
        if isinstance(decision.score, SignalScore):
            scores, branch_scores = position_scores(batch, decision.score, tested, decision.w_max)
        else:
            scores = batch.scores(decision.score, tested, num_layers)
            branch_scores = batch.branch_scores(decision.score, tested, num_layers)
    draft = _Draft(batch, decision, num_layers, exits, scores, branch_scores, has_branch_scores)
    for draft_index in range(decision.w_max if exits else 0):
        if not draft.is_active.any():
            break
        draft.step(draft_index)
    known, unknown = draft.known, np.flatnonzero(~draft.is_known)
    for counts in (draft.counts, known):
        counts.verify(draft.bounds)
    is_learned = decision.score is not None and decision.score.is_learned
    work = draft.counts.work(batch.context_length, is_learned)
    known_work = known.work(batch.context_length[draft.known_rows], is_learned)
    return StepOutcomes(
        num_drafted=draft.counts.drafted,
        num_accepted=draft.num_accepted,
        num_emitted=draft.num_accepted + 1 - draft.is_done,
        num_layer_calls=draft.counts.calls_by_rows.sum(axis=1),
        work=work,
        is_exact=draft.is_known,
        estimated_work=work[unknown] - known_work[np.argsort(draft.known_rows)],
    )


class _Counts:
    """Pending tokens and work of some rows. `level` of a pending token: how many of the exits it has passed."""

    def __init__(self, num_rows: int, w_max: int) -> None:
        self.level = np.full((num_rows, w_max + 1), _NOT_PENDING, dtype=np.int16)
        self.level[:, :1] = 0
        self.calls_by_rows = np.zeros((num_rows, w_max + 2), dtype=np.int64)
        self.drafted, self.reads, self.tests, self.scored = (np.zeros(num_rows, dtype=np.int64) for _ in range(4))

    def add(self, other: "_Counts", rows: np.ndarray) -> None:
        """Appends some rows of another."""
        for name in ("level", "calls_by_rows", "drafted", "reads", "tests", "scored"):
            setattr(self, name, np.concatenate([getattr(self, name), getattr(other, name)[rows]]))

    def verify(self, bounds: Sequence[int]) -> None:
        """Runs every pending token to full depth, each layer once on the tokens that stand below it."""
        for level in range(len(bounds) - 1):
            num_pending = (self.level <= level).sum(axis=1)
            runs = np.flatnonzero(num_pending)
            self.calls_by_rows[runs, num_pending[runs]] += bounds[level + 1] - bounds[level]

    def work(self, context_length: np.ndarray, is_learned: bool) -> np.ndarray:
        """In the order of `WORK_NAMES`. (rows, W)

        is_learned: whether a learned score was computed at every test.
        """
        rows = np.arange(self.calls_by_rows.shape[1])
        columns = [
            self.calls_by_rows @ rows * context_length / 1000.0,
            self.reads + 1,
            self.reads + self.drafted + 1,
            self.tests,
            self.scored * is_learned,
            np.zeros(len(self.reads)),
            np.ones(len(self.reads)),
        ]
        work = np.column_stack([self.calls_by_rows @ row_shares(rows), *columns])
        assert work.shape[1] == len(WORK_NAMES)
        return work


class _Draft:
    """One step at every row at once."""

    def __init__(
        self,
        batch: TraceBatch,
        decision: Decision,
        num_layers: int,
        exits: list[tuple[int, int, float]],
        scores: np.ndarray | None,
        branch_scores: np.ndarray | None,
        has_branch_scores: bool,
    ) -> None:
        self.batch, self.decision, self.exits = batch, decision, exits
        self.scores, self.branch_scores = scores, branch_scores
        self.bounds = [0, *(e for _, e, _ in exits), num_layers]
        n = batch.num_rows
        self.width = np.minimum(decision.w_max, batch.max_width) if exits else np.zeros(n, dtype=np.int64)
        self.is_active = self.width > 0
        self.is_on_path = np.ones(n, dtype=bool)
        self.is_done = np.zeros(n, dtype=bool)
        self.num_accepted = np.zeros(n, dtype=np.int64)
        self.product = np.ones(n)
        self.counts = _Counts(n, decision.w_max)
        is_tested = any(threshold > 0 for *_, threshold in exits)
        can_follow = not is_tested or has_branch_scores or branch_scores is not None
        self.follows = len(batch.branches.end) > 0 and can_follow
        self.branch_is_lookup_only = batch.branches.is_lookup_only
        self.branch = np.full(n, -1)
        """Row of the branch that a draft which left the path stands at, -1 where it stands at none. (N,)"""
        self.can_stop = batch.has_eos | is_tested
        self.is_known = np.ones(n, dtype=bool)
        self.known_rows = np.zeros(0, dtype=np.int64)
        """Rows that are not exact, in the order in which they became so. (U,)"""
        self.known = _Counts(0, decision.w_max)
        """What is known of them."""

    def step(self, draft_index: int) -> None:
        """Tries to draft one more token at every active row."""
        wanted = np.arange(self.batch.num_rows) + draft_index
        row, is_past_end = np.minimum(wanted, self.batch.last_row), wanted > self.batch.last_row
        undecided = self.is_active & (self.width > draft_index)
        self.keep_what_is_known(undecided & ~self.is_on_path & (self.branch < 0) & self.can_stop & self.is_known)
        is_next, branch = np.zeros_like(undecided), self.branch.copy()
        for level, (index, exit_layer, threshold) in enumerate(self.exits):
            has_head = exit_layer != LOOKUP_EXIT
            if has_head:
                self.leave_lookups(undecided, branch)
            self.advance(undecided, level, draft_index)
            self.counts.reads += undecided & has_head
            clears = undecided
            if threshold > 0:
                self.counts.tests += undecided & has_head
                self.counts.scored += undecided
                clears = undecided & self.clears(row, draft_index, index, threshold, undecided)
            is_correct = clears & self.is_on_path & ~is_past_end & self.batch.is_accepted[row, index]
            is_eos = clears & ~is_past_end & self.batch.is_eos_draft[row, index]
            if self.follows:
                self.follow(branch, clears, is_correct, is_eos, wanted, is_past_end, index)
            self.counts.drafted += clears
            self.num_accepted += is_correct
            self.is_done |= is_correct & is_eos
            self.is_on_path &= ~clears | is_correct
            self.counts.level[clears, draft_index + 1] = 0
            is_next |= clears & ~is_eos
            undecided = undecided & ~clears
        self.is_active = is_next
        self.branch = branch

    def leave_lookups(self, rows: np.ndarray, branch: np.ndarray) -> None:
        """Some rows read an exit's head: those that stand where the context alone is known leave what is known."""
        if not self.branch_is_lookup_only.any():
            return
        leaves = rows & (self.branch >= 0) & self.branch_is_lookup_only[np.maximum(self.branch, 0)]
        self.keep_what_is_known(leaves & self.can_stop & self.is_known)
        self.branch[leaves] = branch[leaves] = -1

    def keep_what_is_known(self, rows: np.ndarray) -> None:
        """From here on some rows are estimates."""
        chosen = np.flatnonzero(rows)
        self.known_rows = np.append(self.known_rows, chosen)
        self.known.add(self.counts, chosen)
        self.is_known[chosen] = False

    def follow(
        self,
        branch: np.ndarray,
        clears: np.ndarray,
        is_correct: np.ndarray,
        is_eos: np.ndarray,
        wanted: np.ndarray,
        is_past_end: np.ndarray,
        index: int,
    ) -> None:
        """Where the drafts that clear an exit lead: `branch` is updated, and `is_eos` for those on one."""
        branches = self.batch.branches
        leaves = np.flatnonzero(clears & self.is_on_path & ~is_correct & ~is_past_end)
        branch[leaves] = branches.first[wanted[leaves], index]
        goes_on = np.flatnonzero(clears & (self.branch >= 0))
        at = self.branch[goes_on]
        is_eos[goes_on] = branches.is_eos_draft[at, index]
        tokens = branches.draft_token[at]
        is_its_own = tokens[:, index] == tokens[np.arange(len(at)), branches.along[at]]
        branch[goes_on] = np.where(is_its_own & (at + 1 < branches.end[at]), at + 1, -1)

    def advance(self, rows: np.ndarray, level: int, last: int) -> None:
        """Runs the pending tokens of some rows that stand at `level` to the next one."""
        chosen, counts = np.flatnonzero(rows), self.counts
        pending = counts.level[chosen, : last + 1]
        counts.calls_by_rows[chosen, (pending <= level).sum(axis=1)] += self.bounds[level + 1] - self.bounds[level]
        counts.level[chosen, : last + 1] = np.maximum(pending, level + 1)

    def clears(
        self, row: np.ndarray, draft_index: int, index: int, threshold: float, undecided: np.ndarray
    ) -> np.ndarray:
        assert self.scores is not None  # computed wherever a threshold is above 0
        score = self.scores[row, index] if self.scores.ndim == 2 else self.scores[:, draft_index, index]
        if self.branch_scores is not None and len(self.branch_scores):
            at = np.maximum(self.branch, 0)
            on_branch = self.branch_scores
            along = on_branch[at, index] if on_branch.ndim == 2 else on_branch[at, draft_index, index]
            score = np.where(self.branch >= 0, along, score)
        value = self.product * score if self.decision.combine == "product" else score
        clears = undecided & (value >= threshold)
        self.product = np.where(clears, self.product * score, self.product)
        return clears
