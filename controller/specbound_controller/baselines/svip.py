"""SVIP (arXiv 2411.18462): a draft ends where its entropy no longer promises that the next token will be accepted."""

import math
from dataclasses import dataclass

import numpy as np

from specbound_controller.baselines.fixed import FixedPolicy
from specbound_controller.baselines.situation import Situation, check_draft, check_share
from specbound_controller.records import Decision, ExitSignals
from specbound_controller.score import SIGNAL_NAMES

_ENTROPY = SIGNAL_NAMES.index("entropy_nats")


@dataclass(frozen=True, slots=True)
class EntropyBound:
    """`1 - sqrt(H / 2)`, at least 0: Pinsker's lower bound on the acceptance rate, with the draft's own entropy H in
    place of the divergence from the full model that a draft cannot know."""

    @property
    def is_learned(self) -> bool:
        return False

    def temperature(self, exit_layer: int, num_layers: int) -> float:
        """Plain softmax: the annealed confidence is not read."""
        return 1.0

    def __call__(self, signals: ExitSignals, features: np.ndarray | None) -> float:
        return max(0.0, 1.0 - math.sqrt(max(0.0, signals.entropy_nats) / 2.0))

    def probabilities_at(self, signals: np.ndarray, exit_layers: np.ndarray, features: np.ndarray) -> np.ndarray:
        """The same for arrays. signals: (R, S) -> (R,) float64"""
        entropy = signals[:, _ENTROPY].astype(np.float64)
        values: np.ndarray = np.maximum(0.0, 1.0 - np.sqrt(np.maximum(0.0, entropy) / 2.0))
        return values


@dataclass(frozen=True, slots=True)
class SvipSettings:
    """Its constants."""

    exit_layer: int
    width: int
    """Longest draft."""
    threshold: float
    """Least bound at which a token is drafted, in (0, 1]."""

    def __post_init__(self) -> None:
        check_draft(self.exit_layer, self.width)
        check_share(least=1e-6, threshold=self.threshold)

    def policy(self, situation: Situation) -> FixedPolicy:
        """The same threshold at every step."""
        thresholds = {self.exit_layer: self.threshold}
        return FixedPolicy(Decision(w_max=self.width, thresholds=thresholds, score=EntropyBound()))
