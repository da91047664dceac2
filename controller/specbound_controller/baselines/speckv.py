"""SpecKV (arXiv 2605.02888): a perceptron foretells a step's acceptance rate, and the length with the most tokens wins.

As published the predictor is fitted on signals of the tokens that the very step has drafted, which no policy has when
it chooses how many to draft: what it is shown here is the newest there is, the signals of the last draft. The causal
variant is fitted on those too. Neither knows what a token costs.
"""

# R sequences that take a step, S signals, G lengths, I inputs

from dataclasses import dataclass

import numpy as np

from specbound_controller.baselines.array_policy import ArrayPolicy, Taken
from specbound_controller.baselines.situation import Settings, Situation, check_draft
from specbound_controller.compression import COMPRESSIONS
from specbound_controller.features import FEATURE_NAMES
from specbound_controller.mlp import Mlp
from specbound_controller.policy import AnnealedConfidence
from specbound_controller.records import Decision

SIGNALS = ("draft_confidence", "draft_entropy_nats", "mean_draft_confidence", "mean_draft_entropy_nats")
"""Step features that hold the signals of the last draft: its last token's and their mean. (S,)"""
_COLUMNS = [FEATURE_NAMES.index(name) for name in SIGNALS]
_FLAG = FEATURE_NAMES.index("has_draft_signals")
_ANY_CONFIDENCE = 1e-12
"""A threshold that every token clears: the draft has its full length, and its signals are read."""


def predictor_inputs(signals: np.ndarray, has_signals: np.ndarray, compression: str, length: np.ndarray) -> np.ndarray:
    """What the predictor reads. signals: (R, S), has_signals: (R,), length: (R,) -> (R, I) float32"""
    levels = np.tile([float(name == compression) for name in COMPRESSIONS], (len(signals), 1))
    return np.column_stack([signals, has_signals, levels, length]).astype(np.float32)


class SpecKV(ArrayPolicy):
    """The length of `1 + length * foretold acceptance rate` at its largest; the first step's signals are given."""

    needs_features = True

    def __init__(
        self, exit_layer: int, lengths: tuple[int, ...], mlp: Mlp, start_signals: tuple[float, ...], compression: str
    ) -> None:
        """start_signals: what is taken for the signals of a draft before there was one; none: nothing, and said so."""
        thresholds, score = {exit_layer: _ANY_CONFIDENCE}, AnnealedConfidence(0.0)
        self.decisions = tuple(Decision(w_max=length, thresholds=thresholds, score=score) for length in lengths)
        self.lengths, self.mlp, self.start_signals, self.compression = lengths, mlp, start_signals, compression

    def reset_batch(self, num_sequences: int) -> None:
        """The step features hold all of its state."""

    def choose(self, features: np.ndarray | None, rows: np.ndarray) -> np.ndarray:
        if features is None:
            raise ValueError("features must be given to SpecKV, got None")
        signals, flag = features[:, _COLUMNS].astype(np.float64), features[:, _FLAG].astype(np.float64)
        if self.start_signals:
            signals[flag == 0] = self.start_signals
            flag = np.ones(len(flag))
        tokens = []
        for length in self.lengths:
            inputs = predictor_inputs(signals, flag, self.compression, np.full(len(signals), length))
            tokens.append(1.0 + length * np.clip(self.mlp(inputs)[:, 0], 0.0, 1.0))
        best: np.ndarray = np.stack(tokens, axis=1).argmax(axis=1)
        return best

    def learn(self, rows: np.ndarray, taken: Taken) -> None:
        """Nothing beyond the step features."""


@dataclass(frozen=True, slots=True)
class SpecKVSettings(Settings):
    """The predictor of one exit layer."""

    exit_layer: int
    lengths: tuple[int, ...]
    """Draft lengths to choose from, ascending."""
    weight1: tuple[tuple[float, ...], ...]
    """Perceptron on unscaled inputs. (hidden, I)"""
    bias1: tuple[float, ...]
    weight2: tuple[tuple[float, ...], ...]
    """(1, hidden)"""
    bias2: tuple[float, ...]
    start_signals: tuple[float, ...] = ()
    """Signals to assume before the first draft, (S,); empty for a predictor that was fitted on steps without."""

    def __post_init__(self) -> None:
        check_draft(self.exit_layer, *self.lengths)
        if not self.lengths or list(self.lengths) != sorted(set(self.lengths)):
            raise ValueError(f"lengths must ascend, got {self.lengths}")
        if self.start_signals and len(self.start_signals) != len(SIGNALS):
            raise ValueError(f"start_signals must be {len(SIGNALS)} numbers or none, got {len(self.start_signals)}")
        num_inputs = len(SIGNALS) + 1 + len(COMPRESSIONS) + 1
        mlp = self._mlp()
        if (mlp.num_inputs, mlp.num_outputs) != (num_inputs, 1):
            raise ValueError(
                f"the predictor must map {num_inputs} inputs to 1, got {mlp.num_inputs} to {mlp.num_outputs}"
            )

    def policy(self, situation: Situation) -> SpecKV:
        """A fresh one."""
        return SpecKV(self.exit_layer, self.lengths, self._mlp(), self.start_signals, situation.compression)

    def _mlp(self) -> Mlp:
        arrays = (self.weight1, self.bias1, self.weight2, self.bias2)
        return Mlp(*(np.array(array, dtype=np.float32) for array in arrays))
