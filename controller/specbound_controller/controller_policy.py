"""The controller as a policy: the choice of each step, in numpy, behind the never-slower guard."""

import copy
import math
from dataclasses import replace
from functools import partial
from typing import Protocol

import numpy as np

from specbound_controller.actions import PLAIN
from specbound_controller.by_rows import ByRows
from specbound_controller.config import TEXT_KINDS, ControllerConfig, correction_key
from specbound_controller.costs import CostTable, work_vector
from specbound_controller.draft_vocabulary import DraftVocabulary
from specbound_controller.features import FEATURE_NAMES
from specbound_controller.guard import GuardBatch, NeverSlowerGuard
from specbound_controller.policy import AnnealedConfidence
from specbound_controller.records import Decision, ExitScore, StepRecord
from specbound_controller.score import LearnedScore
from specbound_controller.step_batch import Choices, StepBatch
from specbound_controller.step_policy import StepPolicy

_CONTEXT_OF_PRICES = 512
"""Tokens of context at which plain decoding of a batch is compared with that of one sequence."""
_CONTEXT, _TEMPERATURE = (FEATURE_NAMES.index(name) for name in ("log_context_length", "sampling_temperature"))


class Trained(Protocol):
    """What the policy reads of a controller."""

    @property
    def config(self) -> ControllerConfig:
        """Actions, corrections and stored static actions."""

    @property
    def score(self) -> LearnedScore:
        """The calibrated exit score."""

    @property
    def step_policy(self) -> StepPolicy:
        """Predicts what every action of the grid will do."""

    @property
    def draft_vocabulary(self) -> DraftVocabulary | None:
        """Tokens that the exits read and draft; None is all."""

    @property
    def reads_full_signals(self) -> bool:
        """Whether a network looks at the full model's signals."""


class ControllerPolicy:
    """Chooses `argmax emitted - rho * seconds + correction` over the grid at every step, or plays the stored static
    action."""

    def __init__(self, controller: Trained, compression: str, costs: CostTable, rho: float, guard: bool = True) -> None:
        """`Controller.policy` is the way to get one.

        Args:
            compression: The level, among those trained on, that it decides for.
            rho: Long-run tokens per second at these costs.
        """
        config = controller.config
        scores: dict[str, ExitScore] = {"annealed": AnnealedConfidence(config.alpha), "learned": controller.score}
        self.actions = config.actions
        self.static_action = static = config.static_actions.get(compression)
        """The action played at every step, where training found nothing better; else None."""
        self.needs_features = static is None or static.score == "learned"
        self._reads_full_signals = self.needs_features and controller.reads_full_signals
        self.guard = NeverSlowerGuard(costs, config.num_layers, self.needs_features) if guard else None
        self.rho = rho
        """Long-run tokens per second that the choice is made at."""
        self.draft_vocabulary = vocabulary = controller.draft_vocabulary
        """Tokens that its scores and actions were fitted on, and the trained exits that read them; None is all."""
        self._decisions = tuple(
            replace(action.decision(scores), draft_vocabulary=vocabulary) for action in self.actions
        )
        self._plain = PLAIN.decision(scores)
        self._static = None if static is None else replace(static.decision(scores), draft_vocabulary=vocabulary)
        self.decisions = (*self._decisions, self._plain, *(() if self._static is None else (self._static,)))
        """All that it may choose: the grid's, plain decoding of a pause, the stored static action."""
        self._guards: GuardBatch | None = None
        self._step_policy = controller.step_policy
        self._by_rows = ByRows(partial(_costs_and_gains, controller.step_policy, config.num_layers, costs, rho))
        self.share(1)
        self._corrections = np.zeros((len(TEXT_KINDS), len(self.actions)), dtype=np.float32)
        for index, kind in enumerate(TEXT_KINDS):
            self._corrections[index] = config.corrections.get(correction_key(compression, kind), 0.0)

    def share(self, num_rows: int) -> None:
        """So many sequences share the calls of the coming steps: prices are those of one of them."""
        if self.guard is not None:
            self.guard.share(num_rows)
        self.costs, self._gains = self._by_rows(num_rows)

    @property
    def needs_full_signals(self) -> bool:
        """Where a network looks at them, and not in a pause of the guard: what is plain then is as cheap as plain."""
        return self._reads_full_signals and not (self.guard is not None and self.guard.is_paused)

    def reset(self) -> None:
        """Forgets the last prompt; the guard's counts stay."""
        if self.guard is not None:
            self.guard.reset()

    def decide(self, features: np.ndarray | None) -> Decision:
        """The decision for the step that begins. features: (F,) float32"""
        if self.guard is not None and self.guard.is_paused:
            return self._plain
        if self._static is not None:
            return self._static
        if features is None:
            raise ValueError("features must be given to the controller, got None")
        return self._decisions[self.best_action(features)]

    def corrected(self, kind: str, corrections: np.ndarray) -> "ControllerPolicy":
        """The same policy with other corrections for a kind of text; shares its guard. (A,)"""
        twin = copy.copy(self)
        twin._corrections = self._corrections.copy()
        twin._corrections[TEXT_KINDS.index(kind)] = corrections
        return twin

    def best_action(self, features: np.ndarray) -> int:
        """Index of the action that the step policy chooses. features: (F,) float32"""
        gains: np.ndarray = self._gains @ self._step_policy.curve_values(features)
        constant, per_token = gains[: len(self.actions)], gains[len(self.actions) :]
        per_token *= math.expm1(features[_CONTEXT])
        constant += per_token
        constant += self._corrections[int(features[_TEMPERATURE] > 0)]
        return int(constant.argmax())

    def observe(self, record: StepRecord) -> None:
        """Shows the guard what the step did."""
        if self.guard is not None:
            self.guard.observe(record)

    def reset_batch(self, num_sequences: int) -> None:
        """Begins so many sequences anew; the guard's counts stay."""
        self._guards = None if self.guard is None else GuardBatch(self.guard, num_sequences)

    def decide_batch(self, features: np.ndarray | None, rows: np.ndarray) -> Choices:
        """The decisions for the steps that some sequences begin. features: (R, F) float32, rows: (R,)"""
        paused = np.zeros(len(rows), dtype=bool) if self._guards is None else self._guards.is_paused(rows)
        decision = np.full(len(rows), len(self._decisions))
        if self._static is not None:
            decision[~paused] += 1
        elif features is None:
            raise ValueError("features must be given to the controller, got None")
        elif not paused.all():
            decision[~paused] = self.best_actions(features[~paused])
        return Choices(decision, ~paused & self._reads_full_signals)

    def best_actions(self, features: np.ndarray) -> np.ndarray:
        """`best_action` of many steps. (R, F) float32 -> (R,)"""
        context_length = np.expm1(features[:, _CONTEXT].astype(np.float64)).astype(np.float32)
        gains: np.ndarray = self._step_policy.curve_values(features) @ self._gains.T
        constant, per_token = gains[:, : len(self.actions)], gains[:, len(self.actions) :]
        per_token *= context_length[:, None]
        constant += per_token
        constant += self._corrections[(features[:, _TEMPERATURE] > 0).astype(int)]
        best: np.ndarray = constant.argmax(axis=1)
        return best

    def observe_batch(self, rows: np.ndarray, steps: StepBatch) -> None:
        """Shows the guards what those steps did."""
        if self._guards is not None:
            self._guards.observe(rows, steps)


def _costs_and_gains(
    step_policy: StepPolicy, num_layers: int, alone: CostTable, rho: float, num_rows: int
) -> tuple[CostTable, np.ndarray]:
    """Prices of one of so many sequences, and what the choice weighs curves of survival by.

    The long-run speed `rho` is taken to change as plain decoding's does.
    """
    costs = alone.shared(num_rows)
    plain = work_vector({1: num_layers}, {1: 1}, 0, _CONTEXT_OF_PRICES, num_decisions=0)
    alone_s, shared_s = (float(each.seconds(plain)) for each in (alone, costs))
    return costs, step_policy.gains(step_policy.prices(costs, num_layers), rho * alone_s / shared_s)
