"""What one fixed decision does at every position of many traces at once: tokens emitted and work, in numpy.

The same accounting as `simulate_step`, vectorised over all starts (a test compares the two, step by step), for best
static search, oracles on a grid and training rows. After the first wrong draft the branch is an estimate, as there.
"""

# N rows (positions of all traces, concatenated), E exit layers, K temperatures, W work counts, J draft tokens

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from specbound_controller.costs import ROW_BUCKETS, WORK_NAMES, row_bucket
from specbound_controller.errors import InputError
from specbound_controller.policy import AnnealedConfidence
from specbound_controller.records import Decision, ExitScore
from specbound_profiling.trace import PromptTrace, interpolate_confidence

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
        scores = np.full((self.num_rows, len(self.exit_layers)), np.nan)
        for exit_layer in exit_layers:
            index, temperature = self.exit_index(exit_layer), score.temperature(exit_layer, num_layers)
            if isinstance(score, AnnealedConfidence):
                scores[:, index] = interpolate_confidence(self.confidence_at[:, index], self.temperatures, temperature)
                continue
            scores[:, index] = [
                score(trace.signals(position, index, 0, temperature), None)
                for trace in self.traces
                for position in range(trace.num_positions)
            ]
        return scores


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


def step_outcomes(
    batch: TraceBatch,
    decision: Decision,
    num_layers: int,
    scores: np.ndarray | None = None,
) -> StepOutcomes:
    """Outcome of the decision at every row. A fixed decision is charged with no decision time.

    Args:
        scores: exit scores to compare with the thresholds, (N, E), or (N, J, E) where they depend on the row at
            which the step starts and on the draft index (J >= w_max); None computes the decision's own score
            without features.
    """
    exits = [(batch.exit_index(e), e, threshold) for e, threshold in decision.exits()]
    tested = [e for _, e, threshold in exits if threshold > 0]
    if scores is None and tested:
        assert decision.score is not None  # Decision checks it
        scores = batch.scores(decision.score, tested, num_layers)
    draft = _Draft(batch, decision, num_layers, exits, scores)
    for draft_index in range(decision.w_max if exits else 0):
        if not draft.is_active.any():
            break
        draft.step(draft_index)
    draft.verify()
    return StepOutcomes(
        num_drafted=draft.num_drafted,
        num_accepted=draft.num_accepted,
        num_emitted=draft.num_accepted + 1 - draft.is_done,
        num_layer_calls=draft.calls_by_rows.sum(axis=1),
        work=draft.work(),
    )


class _Draft:
    """One step at every row at once. `level` of a pending token: how many of the exits it has passed."""

    def __init__(
        self,
        batch: TraceBatch,
        decision: Decision,
        num_layers: int,
        exits: list[tuple[int, int, float]],
        scores: np.ndarray | None,
    ) -> None:
        self.batch, self.decision, self.exits, self.scores = batch, decision, exits, scores
        self.bounds = [0, *(e for _, e, _ in exits), num_layers]
        n, w_max = batch.num_rows, decision.w_max
        self.width = np.minimum(w_max, batch.max_width) if exits else np.zeros(n, dtype=np.int64)
        self.is_active = self.width > 0
        self.is_on_path = np.ones(n, dtype=bool)
        self.is_done = np.zeros(n, dtype=bool)
        self.num_drafted, self.num_accepted = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
        self.num_reads, self.num_tests = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
        self.product = np.ones(n)
        self.level = np.full((n, w_max + 1), _NOT_PENDING, dtype=np.int16)
        self.level[:, 0] = 0
        self.calls_by_rows = np.zeros((n, w_max + 2), dtype=np.int64)

    def step(self, draft_index: int) -> None:
        """Tries to draft one more token at every active row."""
        wanted = np.arange(self.batch.num_rows) + draft_index
        row, is_past_end = np.minimum(wanted, self.batch.last_row), wanted > self.batch.last_row
        undecided = self.is_active & (self.width > draft_index)
        is_next = np.zeros_like(undecided)
        for level, (index, _, threshold) in enumerate(self.exits):
            self.advance(undecided, level, draft_index)
            self.num_reads += undecided
            clears = undecided
            if threshold > 0:
                self.num_tests += undecided
                clears = undecided & self.clears(row, draft_index, index, threshold, undecided)
            is_correct = clears & self.is_on_path & ~is_past_end & self.batch.is_accepted[row, index]
            is_eos = clears & ~is_past_end & self.batch.is_eos_draft[row, index]
            self.num_drafted += clears
            self.num_accepted += is_correct
            self.is_done |= is_correct & is_eos
            self.is_on_path &= ~clears | is_correct
            self.level[clears, draft_index + 1] = 0
            is_next |= clears & ~is_eos
            undecided = undecided & ~clears
        self.is_active = is_next

    def advance(self, rows: np.ndarray, level: int, last: int) -> None:
        """Runs the pending tokens of some rows that stand at `level` to the next one."""
        chosen = np.flatnonzero(rows)
        pending = self.level[chosen, : last + 1]
        self.calls_by_rows[chosen, (pending <= level).sum(axis=1)] += self.bounds[level + 1] - self.bounds[level]
        self.level[chosen, : last + 1] = np.maximum(pending, level + 1)

    def clears(
        self, row: np.ndarray, draft_index: int, index: int, threshold: float, undecided: np.ndarray
    ) -> np.ndarray:
        assert self.scores is not None  # computed wherever a threshold is above 0
        score = self.scores[row, index] if self.scores.ndim == 2 else self.scores[:, draft_index, index]
        value = self.product * score if self.decision.combine == "product" else score
        clears = undecided & (value >= threshold)
        self.product = np.where(clears, self.product * score, self.product)
        return clears

    def verify(self) -> None:
        """Runs every pending token to full depth, each layer once on the tokens that stand below it."""
        for level in range(len(self.bounds) - 1):
            num_pending = (self.level <= level).sum(axis=1)
            runs = np.flatnonzero(num_pending)
            self.calls_by_rows[runs, num_pending[runs]] += self.bounds[level + 1] - self.bounds[level]

    def work(self) -> np.ndarray:
        """(N, W), in the order of `WORK_NAMES`."""
        rows = np.arange(self.calls_by_rows.shape[1])
        buckets = np.zeros((len(rows), len(ROW_BUCKETS)))
        buckets[rows[1:], [row_bucket(int(r)) for r in rows[1:]]] = 1.0
        columns = [
            self.calls_by_rows @ rows * self.batch.context_length / 1000.0,
            self.num_reads + 1,
            self.num_reads + self.num_drafted + 1,
            self.num_tests,
            np.zeros(len(self.num_reads)),
            np.ones(len(self.num_reads)),
        ]
        work = np.column_stack([self.calls_by_rows @ buckets, *columns])
        assert work.shape[1] == len(WORK_NAMES)
        return work
