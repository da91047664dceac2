"""SVIP (arXiv 2411.18462): a draft ends where its entropy no longer promises that the next token will be accepted."""

import math
from dataclasses import dataclass
from itertools import product
from typing import ClassVar, Self

import numpy as np

from specbound_controller.actions import WIDTHS
from specbound_controller.baselines.situation import Search, Settings, Situation, check_draft
from specbound_controller.policy import FixedPolicy
from specbound_controller.records import Decision, ExitSignals
from specbound_controller.score import SIGNAL_NAMES

LARGEST_ROOT = 4.0
"""Square root of an entropy (nats) that no draft survives; 16 nats are those of nine million equal tokens."""
_ENTROPY = SIGNAL_NAMES.index("entropy_nats")


@dataclass(frozen=True, slots=True)
class EntropyBound:
    """`1 - sqrt(H) / LARGEST_ROOT`, at least 0.

    The rate of acceptance is at least 1 less the square root of half the draft's divergence from the full model
    (Pinsker), and the draft's own entropy H stands in for that, times an unknown constant. The paper merges all
    constants into one threshold on `sqrt(H)`; the one here only keeps the score in [0, 1].
    """

    @property
    def is_learned(self) -> bool:
        return False

    def temperature(self, exit_layer: int, num_layers: int) -> float:
        """Plain softmax: the annealed confidence is not read."""
        return 1.0

    def __call__(self, signals: ExitSignals, features: np.ndarray | None) -> float:
        return max(0.0, 1.0 - math.sqrt(max(0.0, signals.entropy_nats)) / LARGEST_ROOT)

    def probabilities_at(self, signals: np.ndarray, exit_layers: np.ndarray, features: np.ndarray) -> np.ndarray:
        """The same for arrays. signals: (R, S) -> (R,) float64"""
        roots = np.sqrt(np.maximum(0.0, signals[:, _ENTROPY].astype(np.float64)))
        values: np.ndarray = np.maximum(0.0, 1.0 - roots / LARGEST_ROOT)
        return values


_BOUND = EntropyBound()


@dataclass(frozen=True, slots=True)
class SvipSettings(Settings):
    """Its constants."""

    is_constant: ClassVar[bool] = True
    exit_layer: int
    width: int
    """Longest draft."""
    root_entropy: float
    """Largest square root of the entropy (nats) at which a token is drafted: the paper's h."""

    def __post_init__(self) -> None:
        check_draft(self.exit_layer, self.width)
        if not 0.0 <= self.root_entropy < LARGEST_ROOT:
            raise ValueError(f"root_entropy must be in [0, {LARGEST_ROOT:g}), got {self.root_entropy}")

    @classmethod
    def candidates(cls, search: Search) -> list[Self]:
        """Entropies of 0.1 to 5.3 nats."""
        return [cls(*each) for each in product(search.exit_layers, WIDTHS, (0.3, 0.6, 1.0, 1.4, 1.8, 2.3))]

    def policy(self, situation: Situation) -> FixedPolicy:
        """The same threshold at every step."""
        thresholds = {self.exit_layer: 1.0 - self.root_entropy / LARGEST_ROOT}
        return FixedPolicy(Decision(w_max=self.width, thresholds=thresholds, score=_BOUND))
