"""Decisions that draft at one exit layer, at none, or at one after a lookup, as arrays; and their scores as tables.

What one step (`drafting`) and the whole play (`single_exit`) both read. Knows no step.
"""

# N rows of a batch, D drafts of a step that differ, M rows of its branches, E exit layers, S signals, F features

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from specbound_controller.baselines.signal_score import SignalScore
from specbound_controller.lookup import LOOKUP_EXIT
from specbound_controller.policy import AnnealedConfidence
from specbound_controller.records import Decision, ExitScore
from specbound_controller.score import SIGNAL_NAMES
from specbound_profiling.log.branches import Branches
from specbound_profiling.log.later import Later
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.replay.exit_signals import exit_signals
from specbound_profiling.replay.trace_batch import TraceBatch

_DRAFT_INDEX = SIGNAL_NAMES.index("draft_index")


def is_single_exit(decision: Decision) -> bool:
    """Whether a decision fits these tables: one exit at most beside the lookup, and a score that it can compute in
    arrays."""
    exits = decision.exits()
    is_tested = any(threshold > 0 for _, threshold in exits)
    if is_tested and not isinstance(decision.score, AnnealedConfidence | SignalScore):
        return False
    return len(exits) <= 1 or (len(exits) == 2 and exits[0][0] == LOOKUP_EXIT and exits[1][1] > 0)


class ExitTables:
    """What decisions of a fixed list ask for, and what their scores read at the rows of one batch."""

    def __init__(self, batch: TraceBatch, decisions: Sequence[Decision], num_layers: int) -> None:
        self.batch = batch
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
        """What a learned score reads at the rows of `said`, draft index 0. (D * N, E, S) float32"""
        return exit_signals(self.batch.said.sources, self.batch.exit_layers)

    @cached_property
    def branch_signals(self) -> np.ndarray:
        """(M, E, S) float32"""
        found = [trace.branches for trace in self.batch.traces if trace.branches is not None]
        exit_layers = self.batch.exit_layers
        return exit_signals(found, exit_layers) if found else np.zeros((0, len(exit_layers), len(SIGNAL_NAMES)), "f4")

    @cached_property
    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Confidence and entropy of every exit, at the rows of `said` and then at those of the branches.
        2 x (D * N + M, E)"""
        found = [trace.branches for trace in self.batch.traces if trace.branches is not None]
        sources: list[PromptTrace | Later | Branches] = [*self.batch.said.sources, *found]
        confidence = np.concatenate([source.confidence for source in sources]).astype(np.float64)
        return confidence, np.concatenate([source.entropy_nats for source in sources]).astype(np.float64)

    def score_values(
        self, index: int, at: np.ndarray, is_branch: np.ndarray, exits: np.ndarray, features: np.ndarray, j: int
    ) -> np.ndarray:
        """One of `scores` at rows of `said` or, where `is_branch`, of the branches. All (rows,) -> (rows,) float64"""
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
