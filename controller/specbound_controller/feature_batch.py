"""The step features of many sequences at once: what `FeatureState` holds for one, in arrays.

Decoding takes the features one sequence at a time, where plain numbers are faster; replay advances many. A test
compares the two, step by step.
"""

# B sequences, R of them that take a step, F features

import numpy as np

from specbound_controller.compression import COMPRESSIONS
from specbound_controller.features import FAST, FEATURE_NAMES, MAX_MARGIN, SLOW
from specbound_controller.records import STOP_REASONS
from specbound_controller.step_batch import StepBatch

_WIDTH, _DEPTH, _OFF = (STOP_REASONS.index(reason) for reason in ("width", "depth", "off"))


class FeatureBatch:
    """Running state of B sequences."""

    def __init__(self, compression: str, context_lengths: np.ndarray, sampling_temperatures: np.ndarray) -> None:
        """`FeatureState.reset` of every sequence.

        Args:
            context_lengths: Tokens committed when the first step of each sequence begins. (B,)
            sampling_temperatures: What divides the logits before sampling; 0 for greedy decoding. (B,)
        """
        if compression not in COMPRESSIONS:
            raise ValueError(f"compression must be one of {', '.join(COMPRESSIONS)}, got {compression!r}")
        num_sequences = len(context_lengths)
        self._compression = np.array([float(name == compression) for name in COMPRESSIONS])
        self._first_context, self._context = context_lengths.copy(), context_lengths.copy()
        self._temperature = sampling_temperatures.copy()
        self._last = np.zeros((num_sequences, 7))
        self._previous = np.zeros((num_sequences, 2))
        self._fast = np.tile([1.0, 2.0, 0.0], (num_sequences, 1))
        self._slow = self._fast.copy()
        self._steps_since_draft = np.zeros(num_sequences)
        self._full = np.zeros((num_sequences, 4))
        self._draft = np.zeros((num_sequences, 5))

    def update(self, rows: np.ndarray, steps: StepBatch) -> None:
        """Takes in the steps that have just ended. rows: their sequences, (R,)"""
        self._context[rows] = steps.context_length + steps.num_emitted
        self._full[rows] = steps.full_signals
        self._full[rows, 3] = np.minimum(steps.full_signals[:, 3], MAX_MARGIN)
        has_draft = steps.num_drafted > 0
        idle = rows[~has_draft]
        self._steps_since_draft[idle] += 1
        self._last[idle, 4] = 0.0
        self._last[idle, 5] = steps.stop_reason[~has_draft] == _DEPTH
        self._last[idle, 6] = steps.stop_reason[~has_draft] == _OFF
        own, drafted, accepted = rows[has_draft], steps.num_drafted[has_draft], steps.num_accepted[has_draft]
        reason, is_rejected = steps.stop_reason[has_draft], accepted < drafted
        self._previous[own] = self._last[own, :2]
        columns = (drafted, accepted, is_rejected, steps.exit_layer[has_draft], reason == _WIDTH, reason == _DEPTH)
        self._last[own, :6] = np.column_stack(columns)
        self._last[own, 6] = 0.0
        new = np.column_stack((accepted, accepted + is_rejected, accepted))
        self._fast[own] = (1.0 - FAST) * self._fast[own] + FAST * new
        self._slow[own] = (1.0 - SLOW) * self._slow[own] + SLOW * new
        self._steps_since_draft[own] = 0
        self._draft[own] = steps.draft_signals[has_draft]

    def vectors(self, rows: np.ndarray, lookups: np.ndarray) -> np.ndarray:
        """Features of the steps that some sequences begin now. (R,) -> (R, F) float32

        lookups: length, probability and recency of what the context says. (R, 3)
        """
        fast, slow, context = self._fast[rows], self._slow[rows], self._context[rows]
        features = np.empty((len(rows), len(FEATURE_NAMES)))
        features[:, :7] = self._last[rows]
        features[:, 7:9] = self._previous[rows]
        features[:, 9] = fast[:, 0] / fast[:, 1]
        features[:, 10] = slow[:, 0] / slow[:, 1]
        features[:, 11] = fast[:, 2]
        features[:, 12] = slow[:, 2]
        features[:, 13] = np.log1p(self._steps_since_draft[rows])
        features[:, 14:18] = self._full[rows]
        features[:, 18:23] = self._draft[rows]
        features[:, 23] = np.log1p(context - self._first_context[rows])
        features[:, 24] = np.log1p(context)
        features[:, 25] = np.log1p(lookups[:, 0])
        features[:, 26:28] = lookups[:, 1:]
        features[:, 28] = self._temperature[rows]
        features[:, 29:] = self._compression
        return features.astype(np.float32)
