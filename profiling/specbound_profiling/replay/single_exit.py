"""One step at many rows at once, each row with a decision of its own that drafts at one exit layer, at none, or at one
after a lookup in the context.

The same accounting as `simulate`, which is the reference (a test compares the two, step by step). Scores may read step
features, so that a controller's steps can be replayed many at a time. Knows no policy.
"""

# N rows of a batch, M rows of its branches, E exit layers, R rows at which a step begins, S signals, F features

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from specbound_controller.baselines.signal_score import SignalScore
from specbound_controller.costs import WORK_NAMES, CostTable, row_shares
from specbound_controller.lookup import LOOKUP_EXIT
from specbound_controller.policy import AnnealedConfidence
from specbound_controller.records import Decision, ExitScore
from specbound_controller.score import SIGNAL_NAMES
from specbound_controller.step_batch import StepBatch
from specbound_profiling.log.trace import Branches, PromptTrace
from specbound_profiling.replay.drafting import Drafting, DraftWork
from specbound_profiling.replay.exit_signals import exit_signals
from specbound_profiling.replay.outcomes import TraceBatch

_DRAFT_INDEX = SIGNAL_NAMES.index("draft_index")
_EXIT_TESTS, _LEARNED, _DECISIONS = (WORK_NAMES.index(name) for name in ("exit_tests", "learned_scores", "decisions"))


def is_single_exit(decision: Decision) -> bool:
    """Whether this module can play a decision: one exit at most beside the lookup, and a score that it can compute in
    arrays."""
    exits = decision.exits()
    is_tested = any(threshold > 0 for _, threshold in exits)
    if is_tested and not isinstance(decision.score, AnnealedConfidence | SignalScore):
        return False
    return len(exits) <= 1 or (len(exits) == 2 and exits[0][0] == LOOKUP_EXIT and exits[1][1] > 0)


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
        self.exit_layers = np.array(batch.exit_layers)
        """(E,)"""
        read = [decision.exits() for decision in decisions]
        exits = [found[-1:] for found in read]
        self.exit_layer = np.array([found[0][0] if found else 0 for found in exits])
        """0 for lookups, and in plain decoding. (decisions,)"""
        self.exit_index = np.array([batch.exit_index(found[0][0]) if found else 0 for found in exits])
        self.threshold = np.array([found[0][1] if found else 0.0 for found in exits])
        self.lookup_threshold = np.array([found[0][1] if len(found) > 1 else 0.0 for found in read])
        """Of the lookup before the exit; 0 where there is none. (decisions,)"""
        self.lookup_index = batch.exit_index(LOOKUP_EXIT) if any(self.lookup_threshold) else 0
        """Exit index of these lookups."""
        self.width = np.array([d.w_max if found else 0 for d, found in zip(decisions, exits, strict=True)])
        self.is_product = np.array([decision.combine == "product" for decision in decisions])
        scores = [d.score if t > 0 else None for d, t in zip(decisions, self.threshold, strict=True)]
        # annealed scores are equal where their strength is, others where they are the same object
        keys = [score if isinstance(score, AnnealedConfidence) else id(score) for score in scores]
        distinct = {key: score for key, score in zip(keys, scores, strict=True) if score is not None}
        self.scores: list[ExitScore] = list(distinct.values())
        places = {key: place for place, key in enumerate(distinct)}
        self.score = np.array([places.get(key, -1) for key in keys])
        """Index into `scores`, -1 where nothing is tested. (decisions,)"""
        is_learned = [score is not None and score.is_learned for score in scores]
        self.is_learned = np.array(is_learned)
        self._annealed: dict[int, np.ndarray] = {}
        self._branch_annealed: dict[int, np.ndarray] = {}
        for index, score in enumerate(self.scores):
            if isinstance(score, AnnealedConfidence):
                chosen = self.score == index
                first_layers = [LOOKUP_EXIT] if self.lookup_threshold[chosen].any() else []
                layers = np.unique([*self.exit_layer[chosen], *first_layers]).tolist()
                self._annealed[index] = batch.scores(score, layers, num_layers)
                self._branch_annealed[index] = batch.branch_scores(score, layers, num_layers)

    @cached_property
    def signals(self) -> np.ndarray:
        """What a learned score reads, draft index 0. (N, E, S) float32"""
        return exit_signals(self.batch.traces, self.batch.exit_layers)

    @cached_property
    def branch_signals(self) -> np.ndarray:
        """(M, E, S) float32"""
        found = [trace.branches for trace in self.batch.traces if trace.branches is not None]
        exit_layers = self.batch.exit_layers
        return exit_signals(found, exit_layers) if found else np.zeros((0, len(exit_layers), len(SIGNAL_NAMES)), "f4")

    @cached_property
    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Confidence and entropy of every exit, at the rows and then at those of the branches. 2 x (N + M, E)"""
        found = [trace.branches for trace in self.batch.traces if trace.branches is not None]
        sources: list[PromptTrace | Branches] = [*self.batch.traces, *found]
        confidence = np.concatenate([source.confidence for source in sources]).astype(np.float64)
        return confidence, np.concatenate([source.entropy_nats for source in sources]).astype(np.float64)

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
        features: np.ndarray | None,
        wants_full_signals: np.ndarray,
        follows: bool = True,
    ) -> Draws:
        """The steps that begin at some rows.

        Args:
            rows: (R,)
            decision: index of each row's decision. (R,)
            features: (R, F) float32, where a score reads them.
            wants_full_signals: (R,) bool
            follows: whether roll-outs are read; otherwise what they would say is estimated. What the context says
                is known all the same.
        """
        draft = Drafting(self, rows, decision, features, follows)
        for draft_index in range(int(draft.width.max(initial=0))):
            if not draft.step(draft_index):
                break
        num_emitted = draft.accepted + 1 - draft.is_done
        work, known_work = self._work(draft, draft.work), self._work(draft, draft.known_work)
        known_work[draft.is_known] = work[draft.is_known]
        full_signals = self._full[rows + num_emitted - 1] * wants_full_signals[:, None]
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

    def score_values(
        self, index: int, at: np.ndarray, is_branch: np.ndarray, exits: np.ndarray, features: np.ndarray, j: int
    ) -> np.ndarray:
        """One of `scores` at rows or, where `is_branch`, at rows of the branches. All (rows,) -> (rows,) float64"""
        score = self.scores[index]
        if isinstance(score, AnnealedConfidence):
            values, on_branch = self._annealed[index], self._branch_annealed[index]
        else:
            values, on_branch = self.signals, self.branch_signals
        chosen = values[np.where(is_branch, 0, at), exits]
        if is_branch.any():
            chosen[is_branch] = on_branch[at[is_branch], exits[is_branch]]
        if isinstance(score, AnnealedConfidence):
            return chosen
        assert isinstance(score, SignalScore)  # `is_single_exit` says so
        chosen[:, _DRAFT_INDEX] = j
        return score.probabilities_at(chosen, self.exit_layers[exits], features)

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
        draft = Drafting(self, rows, np.full(len(rows), decision), None, follows=True)
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
