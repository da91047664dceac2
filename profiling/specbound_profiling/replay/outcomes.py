"""What one fixed decision does at every position of many traces at once: tokens emitted and work, in numpy.

The same accounting as `simulate`, vectorised over all starts (a test compares the two, step by step), for best static
search, oracles on a grid and studies. After the first wrong draft the rest of the step is read off a roll-out or
estimated, as there.
"""

# N rows (positions of all traces, concatenated), E exit layers, W work counts, M rows of branches, U rows whose outcome
# is not exact

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from specbound_controller.costs import WORK_NAMES, row_shares
from specbound_controller.lookup import LOOKUP_EXIT
from specbound_controller.policy import AnnealedConfidence
from specbound_controller.records import Decision
from specbound_profiling.replay.exit_tables import is_single_exit
from specbound_profiling.replay.result import num_layer_calls
from specbound_profiling.replay.single_exit import SingleExitPlayer
from specbound_profiling.replay.trace_batch import TraceBatch

_NOT_PENDING = np.iinfo(np.int16).max


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


def has_outcomes(decision: Decision) -> bool:
    """Whether `step_outcomes` can play a decision: its score must be one that is computed in arrays."""
    is_tested = any(threshold > 0 for _, threshold in decision.exits())
    return not is_tested or isinstance(decision.score, AnnealedConfidence) or is_single_exit(decision)


def step_outcomes(batch: TraceBatch, decision: Decision, num_layers: int) -> StepOutcomes:
    """Outcome at every row of a decision whose score reads no features. It is charged with no decision time.

    Raises ValueError where `has_outcomes` says no.
    """
    exits = [(batch.exit_index(e), e, threshold) for e, threshold in decision.exits()]
    tested = [e for _, e, threshold in exits if threshold > 0]
    scores = branch_scores = np.empty((0, 0))
    if tested and isinstance(decision.score, AnnealedConfidence):
        scores = batch.scores(decision.score, tested, num_layers)
        branch_scores = batch.branch_scores(decision.score, tested, num_layers)
    elif tested:
        return _single_exit_outcomes(batch, decision, num_layers)
    draft = _Draft(batch, decision, num_layers, exits, scores, branch_scores)
    for draft_index in range(decision.w_max if exits else 0):
        if not draft.is_active.any():
            break
        draft.step(draft_index)
    known, unknown = draft.known, np.flatnonzero(~draft.is_known)
    for counts in (draft.counts, known):
        counts.verify(draft.bounds)
    work = draft.counts.work(batch.context_length)
    known_work = known.work(batch.context_length[draft.known_rows])
    return StepOutcomes(
        num_drafted=draft.counts.drafted,
        num_accepted=draft.num_accepted,
        num_emitted=draft.num_accepted + 1 - draft.is_done,
        num_layer_calls=draft.counts.calls_by_rows.sum(axis=1),
        work=work,
        is_exact=draft.is_known,
        estimated_work=work[unknown] - known_work[np.argsort(draft.known_rows)],
    )


def _single_exit_outcomes(batch: TraceBatch, decision: Decision, num_layers: int) -> StepOutcomes:
    """The same for a score that may read the draft index."""
    if not is_single_exit(decision):
        raise ValueError(f"score of a decision with several exits must be annealed confidence, got {decision.score!r}")
    rows = np.arange(batch.num_rows)
    draws = SingleExitPlayer(batch, [decision], num_layers).play(rows, np.zeros_like(rows))
    steps, unknown = draws.steps, ~draws.is_exact
    return StepOutcomes(
        num_drafted=steps.num_drafted,
        num_accepted=steps.num_accepted,
        num_emitted=steps.num_emitted,
        num_layer_calls=num_layer_calls(steps.work),
        work=steps.work,
        is_exact=draws.is_exact,
        estimated_work=steps.work[unknown] - draws.known_work[unknown],
    )


class _Counts:
    """Pending tokens and work of some rows. `level` of a pending token: how many of the exits it has passed."""

    def __init__(self, num_rows: int, w_max: int) -> None:
        self.level = np.full((num_rows, w_max + 1), _NOT_PENDING, dtype=np.int16)
        self.level[:, :1] = 0
        self.calls_by_rows = np.zeros((num_rows, w_max + 2), dtype=np.int64)
        self.drafted, self.reads, self.tests = (np.zeros(num_rows, dtype=np.int64) for _ in range(3))

    def add(self, other: "_Counts", rows: np.ndarray) -> None:
        """Appends some rows of another."""
        for name in ("level", "calls_by_rows", "drafted", "reads", "tests"):
            setattr(self, name, np.concatenate([getattr(self, name), getattr(other, name)[rows]]))

    def verify(self, bounds: Sequence[int]) -> None:
        """Runs every pending token to full depth, each layer once on the tokens that stand below it."""
        for level in range(len(bounds) - 1):
            num_pending = (self.level <= level).sum(axis=1)
            runs = np.flatnonzero(num_pending)
            self.calls_by_rows[runs, num_pending[runs]] += bounds[level + 1] - bounds[level]

    def work(self, context_length: np.ndarray) -> np.ndarray:
        """In the order of `WORK_NAMES`. (rows, W)"""
        rows = np.arange(self.calls_by_rows.shape[1])
        columns = [
            self.calls_by_rows @ rows * context_length / 1000.0,
            self.reads + 1,
            self.reads + self.drafted + 1,
            self.tests,
            np.zeros(len(self.reads)),
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
        scores: np.ndarray,
        branch_scores: np.ndarray,
    ) -> None:
        """scores, branch_scores: of the exits with a threshold, (N, E) and (M, E)."""
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
        self.follows = len(batch.branches.end) > 0
        self.branch_is_lookup_only = batch.branches.is_lookup_only
        self.branch = np.full(n, -1)
        """Row of the branch that a draft which left the path stands at, -1 where it stands at none. (N,)"""
        self.is_followed = np.zeros(n, dtype=bool)
        """Whether what a branch says of exits with a head holds for the step that follows it. (N,)"""
        self.can_stop = batch.has_eos | is_tested
        self.is_known = np.ones(n, dtype=bool)
        self.known_rows = np.zeros(0, dtype=np.int64)
        """Rows that are not exact, in the order in which they became so. (U,)"""
        self.known = _Counts(0, decision.w_max)
        """What is known of them."""

    def step(self, draft_index: int) -> None:
        """Tries to draft one more token at every active row."""
        wanted = np.arange(self.batch.num_rows) + draft_index
        said, is_past_end = self.batch.said, wanted > self.batch.last_row
        row = said.rows(np.minimum(wanted, self.batch.last_row), draft_index)
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
                clears = undecided & self.clears(row, index, threshold, undecided)
            is_correct = clears & self.is_on_path & ~is_past_end & said.is_accepted[row, index]
            is_eos = clears & ~is_past_end & said.is_eos_draft[row, index]
            if self.follows:
                leaves = clears & self.is_on_path & ~is_correct & ~is_past_end
                self.follow(branch, clears, is_eos, np.flatnonzero(leaves), draft_index, index)
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
        on_branch = np.flatnonzero(rows & (self.branch >= 0))
        is_bare = self.branch_is_lookup_only[self.branch[on_branch]] | ~self.is_followed[on_branch]
        if not is_bare.any():
            return
        leaves = np.zeros_like(rows)
        leaves[on_branch] = is_bare
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
        is_eos: np.ndarray,
        leaves: np.ndarray,
        draft_index: int,
        index: int,
    ) -> None:
        """Where the drafts that clear an exit lead: `branch` is updated, and `is_eos` for those on one.

        leaves: rows whose draft has just gone wrong.
        """
        branches = self.batch.branches
        # branches begin with first drafts: what exits say along them is of drafts counted from there
        is_followed = draft_index == 0 or self.batch.said.num_drafts == 1
        if is_followed or self.batch.exit_layers[index] == LOOKUP_EXIT:
            branch[leaves] = branches.first[leaves + draft_index, index]
            self.is_followed[leaves] = is_followed
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

    def clears(self, row: np.ndarray, index: int, threshold: float, undecided: np.ndarray) -> np.ndarray:
        score = self.scores[row, index]
        if len(self.branch_scores):
            score = np.where(self.branch >= 0, self.branch_scores[np.maximum(self.branch, 0), index], score)
        value = self.product * score if self.decision.combine == "product" else score
        clears = undecided & (value >= threshold)
        self.product = np.where(clears, self.product * score, self.product)
        return clears
