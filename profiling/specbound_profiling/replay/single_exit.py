"""One step at many rows at once, each row with a decision of its own that drafts at one exit layer, at none, or at one
after a lookup in the context.

The same accounting as `simulate`, which is the reference (a test compares the two, step by step). Scores may read step
features, so that a controller's steps can be replayed many at a time. Knows no policy.
"""

# N rows of a batch, R rows at which a step begins, F features

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from specbound_controller.costs import WORK_NAMES, CostTable, row_shares
from specbound_controller.records import Decision
from specbound_controller.step_batch import StepBatch
from specbound_profiling.replay.drafting import Drafting, DraftWork
from specbound_profiling.replay.exit_tables import ExitTables
from specbound_profiling.replay.trace_batch import TraceBatch

_EXIT_TESTS, _DECISIONS = WORK_NAMES.index("exit_tests"), WORK_NAMES.index("decisions")


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """What steps did, and how much of it is known."""

    steps: StepBatch
    """The whole steps; work without a policy's own."""
    known_work: np.ndarray
    """Of the same steps, had their drafts ended where what the log knows ends; as `steps.work` where all is known.
    (R, W)"""
    is_exact: np.ndarray
    """(R,) bool"""
    has_followed: np.ndarray
    """Whether a roll-out was read. (R,) bool"""
    is_exit_run: np.ndarray
    """Whether an exit with a head was run for each draft token. (R, longest width) bool"""


class SingleExitPlayer:
    """Plays decisions of a fixed list at rows of one batch."""

    def __init__(self, batch: TraceBatch, decisions: Sequence[Decision], num_layers: int) -> None:
        self.batch, self.num_layers = batch, num_layers
        self.tables = ExitTables(batch, decisions, num_layers)

    @cached_property
    def _full(self) -> np.ndarray:
        """Flag, confidence, entropy and margin of the full model. (N, 4) float64"""
        names = ("full_confidence", "full_entropy_nats", "full_margin")
        columns = [np.concatenate([getattr(trace, name) for trace in self.batch.traces]) for name in names]
        return np.column_stack([np.ones(self.batch.num_rows), *columns])

    def play(
        self,
        rows: np.ndarray,
        decision: np.ndarray,
        features: np.ndarray | None = None,
        wants_full_signals: np.ndarray | bool = False,
        follows: bool = True,
    ) -> Draws:
        """The steps that begin at some rows.

        Args:
            rows: (R,)
            decision: index of each row's decision. (R,)
            features: (R, F) float32, where a score reads them.
            wants_full_signals: (R,) bool, or one for all.
            follows: whether roll-outs are read; otherwise what they would say is estimated. What the context says
                is known all the same.
        """
        draft = Drafting(self.tables, rows, decision, features, follows)
        for draft_index in range(int(draft.width.max(initial=0))):
            if not draft.step(draft_index):
                break
        num_emitted = draft.accepted + 1 - draft.is_done
        work, known_work = self._work(draft, draft.work), self._work(draft, draft.known_work)
        known_work[draft.is_known] = work[draft.is_known]
        full_signals = self._full[rows + num_emitted - 1] * np.reshape(wants_full_signals, (-1, 1))
        steps = StepBatch(
            context_length=self.batch.context_length[rows],
            num_drafted=draft.work.drafted,
            num_accepted=draft.accepted,
            num_emitted=num_emitted,
            exit_layer=draft.last_exit,
            stop_reason=draft.stop_reason,
            draft_signals=draft.signals(),
            full_signals=full_signals,
            work=work,
        )
        return Draws(steps, known_work, draft.is_known, draft.has_followed, draft.is_exit_run)

    def _work(self, draft: Drafting, done: DraftWork) -> np.ndarray:
        """Work of steps whose drafts have cost so much, verification included. (R, W)"""
        exit_layer, rows = draft.exit_layer, done.drafted + 1
        waiting = row_shares(done.waiting) * (done.waiting > 0)[:, None]
        shallow_calls, shallow_rows = done.shallow_calls + waiting, done.shallow_rows + done.waiting
        deep = self.num_layers - exit_layer
        calls = exit_layer[:, None] * shallow_calls + deep[:, None] * row_shares(rows)
        row_calls = exit_layer * shallow_rows + deep * rows
        context = self.batch.context_length[draft.rows]
        heads = [done.reads + 1, done.reads + rows, done.tests, done.scores]
        columns = [row_calls * context / 1000.0, *heads, np.zeros(len(rows)), np.ones(len(rows))]
        return np.column_stack([calls, *columns])

    def play_widths(
        self, decision: int, widths: Sequence[int], costs: CostTable
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Tokens emitted and seconds of one decision at every row of the batch, for each of several width bounds.

        A shorter draft is the beginning of a longer one, so all widths together cost what the longest costs alone.

        widths: ascending, at most the decision's own. Yields 2 x (N,) for each.
        """
        rows = np.arange(self.batch.num_rows)
        draft = Drafting(self.tables, rows, np.full(len(rows), decision), None, follows=True)
        for width in range(widths[-1] + 1):
            if width:
                draft.step(width - 1)
            if width in widths:
                yield draft.accepted + 1 - draft.is_done, costs.seconds(self._work(draft, draft.work))


def with_policy_work(work: np.ndarray, wants_full_signals: np.ndarray, is_adaptive: bool) -> np.ndarray:
    """The same work with what a policy that reads features adds to each step. (R, W)"""
    if is_adaptive:
        work = work.copy()
        work[:, _DECISIONS] += 1
        work[:, _EXIT_TESTS] += wants_full_signals
    return work
