"""Settings of policies that decide the same at every step: a static action, and LayerSkip's fixed draft."""

from dataclasses import dataclass
from itertools import product
from typing import ClassVar, Self

from specbound_controller.actions import WIDTHS, Action
from specbound_controller.baselines.situation import Search, Settings, Situation, check_draft
from specbound_controller.policy import AnnealedConfidence, FixedPolicy
from specbound_controller.records import Decision


@dataclass(frozen=True, slots=True)
class StaticSettings(Settings):
    """An action of the static grid: what a user could choose by hand."""

    is_constant: ClassVar[bool] = True
    action: Action
    alpha: float = 0.0
    """Strength of annealing, for an action with a threshold."""

    def __post_init__(self) -> None:
        if self.action.score == "learned":
            raise ValueError("a static action must not need a controller's score")
        if not self.alpha >= 0.0:
            raise ValueError(f"alpha must be >= 0, got {self.alpha}")

    @classmethod
    def candidates(cls, search: Search) -> list[Self]:
        """The static grid."""
        return [cls(action, search.alpha) for action in search.actions]

    def policy(self, situation: Situation) -> FixedPolicy:
        """The action at every step."""
        return FixedPolicy(self.action.decision({"annealed": AnnealedConfidence(self.alpha)}))


@dataclass(frozen=True, slots=True)
class LayerSkipSettings(Settings):
    """LayerSkip (arXiv 2404.16710): one exit layer, one draft length, no test."""

    is_constant: ClassVar[bool] = True
    exit_layer: int
    length: int
    """Draft tokens of every step."""

    def __post_init__(self) -> None:
        check_draft(self.exit_layer, self.length)

    @classmethod
    def candidates(cls, search: Search) -> list[Self]:
        """Those of the static grid."""
        return [cls(*each) for each in product(search.exit_layers, WIDTHS)]

    def policy(self, situation: Situation) -> FixedPolicy:
        """The same draft at every step."""
        return FixedPolicy(Decision(w_max=self.length, thresholds={self.exit_layer: 0.0}))
