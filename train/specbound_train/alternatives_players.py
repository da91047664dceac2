"""What an objective leads to, as a policy: the controller of the survival curves, or a network that ranks actions."""

# R rows (steps), F features

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from specbound_controller.actions import Action
from specbound_controller.controller import Controller
from specbound_controller.costs import CostTable
from specbound_controller.mlp import Mlp
from specbound_controller.policy import BatchPolicy
from specbound_controller.records import Decision, StepRecord
from specbound_controller.score import LearnedScore
from specbound_controller.step_batch import Choices, StepBatch


class RankingPolicy:
    """Plays the action with the largest output of a perceptron."""

    needs_features = True

    def __init__(self, mlp: Mlp, actions: Sequence[Action], score: LearnedScore, needs_full_signals: bool) -> None:
        self._mlp, self.needs_full_signals = mlp, needs_full_signals
        self.decisions = tuple(action.decision({"learned": score}) for action in actions)

    def reset(self) -> None:
        """Nothing to forget."""

    def decide(self, features: np.ndarray | None) -> Decision:
        """The decision for the step that begins. features: (F,) float32"""
        assert features is not None  # asked for
        return self.decisions[int(self._mlp(features).argmax())]

    def observe(self, record: StepRecord) -> None:
        """Nothing to learn."""

    def reset_batch(self, num_sequences: int) -> None:
        """Nothing to forget."""

    def decide_batch(self, features: np.ndarray | None, rows: np.ndarray) -> Choices:
        """The decisions for the steps that some sequences begin. features: (R, F) float32, rows: (R,)"""
        assert features is not None
        return Choices(self._mlp(features).argmax(axis=1), np.full(len(rows), self.needs_full_signals))

    def observe_batch(self, rows: np.ndarray, steps: StepBatch) -> None:
        """Nothing to learn."""


class Player(Protocol):
    """What an objective has led to."""

    @property
    def num_outputs(self) -> int:
        """Outputs of the perceptron."""

    @property
    def can_be_priced(self) -> bool:
        """Whether the choice follows another cost table without training again."""

    def policy(self, costs: CostTable, compression: str) -> BatchPolicy:
        """To be replayed at these prices."""


@dataclass(frozen=True, slots=True, eq=False)
class CurvesPlayer:
    """A controller without its guard."""

    controller: Controller

    @property
    def num_outputs(self) -> int:
        return self.controller.step_mlp.num_outputs

    @property
    def can_be_priced(self) -> bool:
        return True

    def policy(self, costs: CostTable, compression: str) -> BatchPolicy:
        return self.controller.policy(costs, compression, guard=False)


@dataclass(frozen=True, slots=True, eq=False)
class RankingPlayer:
    """A perceptron that ranks the actions for the prices that it was fitted at."""

    ranking: Mlp
    num_outputs: int
    """Of the perceptron as it was fitted."""
    actions: tuple[Action, ...]
    score: LearnedScore
    has_full_signals: bool

    @property
    def can_be_priced(self) -> bool:
        return False

    def policy(self, costs: CostTable, compression: str) -> BatchPolicy:
        return RankingPolicy(self.ranking, self.actions, self.score, self.has_full_signals)
