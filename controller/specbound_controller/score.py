"""The learned exit score: the calibrated probability that a draft token will be accepted.

One definition of its inputs for single exits (decoding) and for arrays of them (training, replay). Knows no model.
"""

import math
from dataclasses import dataclass

import numpy as np

from specbound_controller.features import FEATURE_NAMES
from specbound_controller.lookup import LOOKUP_EXIT
from specbound_controller.mlp import Mlp
from specbound_controller.records import ExitSignals

SIGNAL_NAMES = (
    "confidence_logit",
    "entropy_nats",
    "margin",
    "noised_margin",
    "log_draft_probability",
    "draft_index",
    "lookup_agreement",
    "log_lookup_length",
    "signed_log_lookup_length",
    "signed_lookup_probability",
)
"""Names of the signals that the score reads, before one flag for each exit layer and the step features. (S,)"""

_LOG_LENGTH = SIGNAL_NAMES.index("log_lookup_length")
_MAX_MARGIN = 20.0  # log-probabilities; beyond it a margin says nothing more
_MIN_PROBABILITY = 1e-6


def signal_array(
    confidence: np.ndarray,
    entropy_nats: np.ndarray,
    margin: np.ndarray,
    noised_margin: np.ndarray,
    draft_probability: np.ndarray,
    draft_index: np.ndarray,
    lookup_agreement: np.ndarray,
    lookup_length: np.ndarray,
    lookup_probability: np.ndarray,
) -> np.ndarray:
    """Signals in the order of `SIGNAL_NAMES`, from arrays of one shape. (...) each -> (..., S) float32"""
    probability = np.clip(np.asarray(confidence, dtype=np.float64), _MIN_PROBABILITY, 1.0 - _MIN_PROBABILITY)
    signals = np.empty((*probability.shape, len(SIGNAL_NAMES)), dtype=np.float32)
    signals[..., 0] = np.log(probability) - np.log1p(-probability)
    signals[..., 1] = entropy_nats
    signals[..., 2] = np.minimum(margin, _MAX_MARGIN)
    signals[..., 3] = np.clip(noised_margin, -_MAX_MARGIN, _MAX_MARGIN)
    signals[..., 4] = np.log(np.maximum(draft_probability, _MIN_PROBABILITY))
    signals[..., 5] = draft_index
    signals[..., 6] = lookup_agreement
    signals[..., 7] = np.log1p(lookup_length)
    signals[..., 8] = signals[..., 6] * signals[..., 7]
    signals[..., 9] = signals[..., 6] * lookup_probability
    return signals


def signal_values(signals: ExitSignals) -> tuple[float, ...]:
    """The same for one exit, in plain arithmetic. (S,)"""
    probability = min(max(signals.confidence, _MIN_PROBABILITY), 1.0 - _MIN_PROBABILITY)
    agreement, log_length = float(signals.lookup_agreement), math.log1p(signals.lookup_length)
    return (
        math.log(probability) - math.log1p(-probability),
        signals.entropy_nats,
        min(signals.margin, _MAX_MARGIN),
        min(max(signals.noised_margin, -_MAX_MARGIN), _MAX_MARGIN),
        math.log(max(signals.draft_probability, _MIN_PROBABILITY)),
        float(signals.draft_index),
        agreement,
        log_length,
        agreement * log_length,
        agreement * signals.lookup_probability,
    )


@dataclass(frozen=True, slots=True)
class LearnedScore:
    """A perceptron over signals, exit layer and step features, calibrated for each exit layer; an `ExitScore`."""

    # E exit layers, S signals, F step features
    mlp: Mlp
    """(S + E + F) -> 1 logit."""
    exit_layers: tuple[int, ...]
    """Exit layers that it knows, shallow to deep. (E,)"""
    slopes: tuple[float, ...]
    """Calibration: slope on the logit for each exit layer. (E,)"""
    offsets: tuple[float, ...]
    """Calibration: offset added after it. (E,)"""

    def __post_init__(self) -> None:
        num_exits = len(self.exit_layers)
        if len(self.slopes) != num_exits or len(self.offsets) != num_exits:
            raise ValueError(f"slopes and offsets must have {num_exits} values, one for each exit layer")
        num_inputs = len(SIGNAL_NAMES) + num_exits + len(FEATURE_NAMES)
        if self.mlp.num_inputs != num_inputs or self.mlp.num_outputs != 1:
            raise ValueError(
                f"the exit score must map {num_inputs} inputs to 1, got {self.mlp.num_inputs} to {self.mlp.num_outputs}"
            )

    @property
    def is_learned(self) -> bool:
        return True

    def temperature(self, exit_layer: int, num_layers: int) -> float:
        """Plain softmax: the annealed confidence is not read."""
        return 1.0

    def __call__(self, signals: ExitSignals, features: np.ndarray | None) -> float:
        """Probability that this exit's draft token is the full model's, given that all drafts before it are."""
        if features is None:
            raise ValueError("features must be given to the learned score, got None")
        if signals.exit_layer == LOOKUP_EXIT and signals.lookup_length == 0:
            return 0.0  # nothing was found
        exit_index = self.exit_layers.index(signals.exit_layer)
        flags = [0.0] * len(self.exit_layers)
        flags[exit_index] = 1.0
        inputs = np.concatenate((np.array((*signal_values(signals), *flags), dtype=np.float32), features))
        logit = self.slopes[exit_index] * float(self.mlp(inputs)[0]) + self.offsets[exit_index]
        return 0.5 * (math.tanh(0.5 * logit) + 1.0)

    def probabilities_at(self, signals: np.ndarray, exit_layers: np.ndarray, features: np.ndarray) -> np.ndarray:
        """The same for arrays. signals: (R, S), exit_layers: (R,), features: (R, F) -> (R,)"""
        exit_index = np.searchsorted(self.exit_layers, exit_layers)
        flags = np.zeros((len(signals), len(self.exit_layers)), dtype=np.float32)
        flags[np.arange(len(signals)), exit_index] = 1.0
        logits = self.mlp(np.concatenate((signals, flags, features), axis=1, dtype=np.float32))[:, 0]
        logits = np.array(self.slopes)[exit_index] * logits.astype(np.float64) + np.array(self.offsets)[exit_index]
        is_found = (exit_layers != LOOKUP_EXIT) | (signals[:, _LOG_LENGTH] > 0)
        values: np.ndarray = 0.5 * (np.tanh(0.5 * logits) + 1.0) * is_found
        return values


def score_inputs(signals: np.ndarray, exit_index: int, num_exits: int, features: np.ndarray) -> np.ndarray:
    """Inputs of the score's perceptron. signals: (..., S), features: (..., F) -> (..., S + E + F) float32"""
    flags = np.zeros((*signals.shape[:-1], num_exits), dtype=np.float32)
    flags[..., exit_index] = 1.0
    return np.concatenate((signals, flags, features), axis=-1, dtype=np.float32)
