"""An exit score that can be computed for many exits at once, which replay asks for."""

from typing import Protocol, runtime_checkable

import numpy as np

from specbound_controller.records import ExitScore


@runtime_checkable
class SignalScore(ExitScore, Protocol):
    """Reads the signals that `specbound_controller.score.signal_array` makes; `LearnedScore` is one too."""

    def probabilities_at(self, signals: np.ndarray, exit_layers: np.ndarray, features: np.ndarray) -> np.ndarray:
        """The score of each row. signals: (R, S), exit_layers: (R,), features: (R, F) -> (R,) float64"""
