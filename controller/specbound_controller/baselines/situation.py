"""What a stored setting and a policy are to each other: a setting with a model, a level and its costs is a policy."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from specbound_controller.actions import Action
from specbound_controller.costs import CostTable, work_vector
from specbound_controller.policy import BatchPolicy

MAX_WIDTH = 64
"""Longest draft that a setting may ask for."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What a policy is made for, beside its own constants."""

    num_layers: int
    """Layers L of the model."""
    compression: str
    """Compression level."""
    costs: CostTable
    """What work costs at that level, where the policy will run."""

    def plain_seconds(self, context_length: int) -> float:
        """Modelled seconds of one token of plain decoding."""
        work = work_vector({1: self.num_layers}, {1: 1}, 0, context_length, num_decisions=0)
        return float(self.costs.seconds(work))


@dataclass(frozen=True, slots=True)
class Search:
    """What a policy's candidates are made from: a log's exit layers, and how fast its static actions are."""

    exit_layers: Sequence[int]
    """Exit layers to try: all of the log where settings are `is_constant`, else those of the fastest of these."""
    actions: Sequence[Action] = ()
    """The static grid."""
    speedups: Sequence[float] = ()
    """Speed of each action over plain decoding."""
    alpha: float = 0.0
    """Strength of annealing, by likelihood."""


class Settings:
    """The constants of one policy: a frozen dataclass of plain numbers, checked as it is made (ValueError)."""

    __slots__ = ()
    is_constant: ClassVar[bool] = False
    """Whether the policy decides the same at every step; all its candidates are then replayed at once."""

    @classmethod
    def candidates(cls, search: Search) -> Iterable[Self]:
        """The settings that a search may try: what the paper leaves open, around what it recommends. None where they
        are fitted on a log, which `specbound_train.tuning` does."""
        return ()

    def policy(self, situation: Situation) -> BatchPolicy:
        """A fresh policy with these constants."""
        raise NotImplementedError


def check_draft(exit_layer: int, *widths: int) -> None:
    """Raises ValueError where no draft of these widths can be made at an exit layer."""
    if exit_layer < 1:
        raise ValueError(f"exit_layer must be at least 1, got {exit_layer}")
    for width in widths:
        if not 1 <= width <= MAX_WIDTH:
            raise ValueError(f"a draft's length must be in [1, {MAX_WIDTH}], got {width}")


def check_share(least: float = 0.0, **values: float) -> None:
    """Raises ValueError that names the first value outside [least, 1]."""
    for name, value in values.items():
        if not least <= value <= 1.0:
            raise ValueError(f"{name} must be in [{least:g}, 1], got {value}")
