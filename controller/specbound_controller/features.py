"""The step features: what is known before a step begins, from the records of the steps before it.

One definition for replay, training and decoding. Causal, and free of costs: no feature holds a time, so a
controller can be priced for another machine. Knows no model and no log.
"""

import math

import numpy as np

from specbound_controller.compression import COMPRESSIONS
from specbound_controller.lookup import NOTHING, Lookup
from specbound_controller.records import StepRecord

FEATURE_NAMES = (
    "last_drafted",
    "last_accepted",
    "last_is_rejected",
    "last_exit_layer",
    "last_stop_width",
    "last_stop_depth",
    "last_stop_off",
    "previous_drafted",
    "previous_accepted",
    "acceptance_fast",
    "acceptance_slow",
    "accepted_fast",
    "accepted_slow",
    "log_steps_since_draft",
    "has_full_signals",
    "full_confidence",
    "full_entropy_nats",
    "full_margin",
    "has_draft_signals",
    "draft_confidence",
    "draft_entropy_nats",
    "mean_draft_confidence",
    "mean_draft_entropy_nats",
    "log_position",
    "log_context_length",
    "log_lookup_length",
    "lookup_probability",
    "lookup_recency",
    "sampling_temperature",
    *(f"compression_{name}" for name in COMPRESSIONS),
)
"""Names of the step features, in the order of a feature vector. (F,)"""

FAST, SLOW = 0.5, 0.1
"""Share of the newest step in the two running means."""
MAX_MARGIN = 20.0
"""Log-probabilities; beyond it a margin says nothing more."""


class FeatureState:
    """Running state of one sequence, from which the features of its next step are read.

    Running means start at the prior they hold before any evidence: acceptance 0.5, accepted tokens 0.
    Acceptance counts a draft's tokens up to and including its first wrong one: later ones were never tested.
    """

    def __init__(self, compression: str) -> None:
        if compression not in COMPRESSIONS:
            raise ValueError(f"compression must be one of {', '.join(COMPRESSIONS)}, got {compression!r}")
        self._compression = tuple(float(name == compression) for name in COMPRESSIONS)
        self.reset(1)

    def reset(self, context_length: int, sampling_temperature: float = 0.0) -> None:
        """Starts a sequence.

        Args:
            context_length: Tokens committed when the first step begins, that is, the prompt's and the one that
                prefill yielded.
            sampling_temperature: What divides the logits before sampling; 0 for greedy decoding.
        """
        self._first_context = self._context = context_length
        self._temperature = sampling_temperature
        self._last = (0.0,) * 7
        self._previous = (0.0, 0.0)
        self._fast = (1.0, 2.0, 0.0)  # accepted, tested (both with a prior), accepted per step
        self._slow = (1.0, 2.0, 0.0)
        self._steps_since_draft = 0
        self._full = (0.0, 0.0, 0.0, 0.0)
        self._draft = (0.0, 0.0, 0.0, 0.0, 0.0)

    def update(self, record: StepRecord) -> None:
        """Takes in the step that has just ended."""
        self._context = record.context_length + record.num_emitted
        self._full = _full_signals(record)
        reason = record.stop_reason
        if record.num_drafted == 0:
            self._steps_since_draft += 1
            self._last = (*self._last[:4], 0.0, float(reason == "depth"), float(reason == "off"))
            return
        drafted, accepted = record.num_drafted, record.num_accepted
        is_rejected = accepted < drafted
        self._previous = self._last[:2]
        self._last = (
            float(drafted),
            float(accepted),
            float(is_rejected),
            float(record.exit_layers[-1]),
            float(reason == "width"),
            float(reason == "depth"),
            0.0,
        )
        self._fast = _moved(self._fast, FAST, accepted, accepted + is_rejected)
        self._slow = _moved(self._slow, SLOW, accepted, accepted + is_rejected)
        self._steps_since_draft = 0
        self._draft = _draft_signals(record)

    def vector(self, lookup: Lookup = NOTHING) -> np.ndarray:
        """Features of the step that begins now, in the order of `FEATURE_NAMES`. (F,) float32

        lookup: what the context says comes next.
        """
        fast, slow = self._fast, self._slow
        return np.array(
            (
                *self._last,
                *self._previous,
                fast[0] / fast[1],
                slow[0] / slow[1],
                fast[2],
                slow[2],
                math.log1p(self._steps_since_draft),
                *self._full,
                *self._draft,
                math.log1p(self._context - self._first_context),
                math.log1p(self._context),
                math.log1p(lookup.length),
                lookup.probability,
                lookup.recency,
                self._temperature,
                *self._compression,
            ),
            dtype=np.float32,
        )


def _moved(mean: tuple[float, float, float], share: float, accepted: int, tested: int) -> tuple[float, float, float]:
    """The running mean after one more draft, whose step weighs `share`."""
    keep = 1.0 - share
    return (
        keep * mean[0] + share * accepted,
        keep * mean[1] + share * tested,
        keep * mean[2] + share * accepted,
    )


def _full_signals(record: StepRecord) -> tuple[float, float, float, float]:
    """Flag, confidence, entropy and margin of the full model at the last committed position; zeros if unknown."""
    if math.isnan(record.full_confidence):
        return (0.0, 0.0, 0.0, 0.0)
    margin = min(record.full_margin, MAX_MARGIN)
    return (1.0, record.full_confidence, record.full_entropy_nats, margin)


def _draft_signals(record: StepRecord) -> tuple[float, float, float, float, float]:
    """Flag, last and mean confidence and entropy of the drafts at their exits; zeros if none was tested."""
    confidences = [value for value in record.confidences if not math.isnan(value)]
    entropies = [value for value in record.entropies_nats if not math.isnan(value)]
    if not confidences or not entropies:
        return (0.0, 0.0, 0.0, 0.0, 0.0)
    return (
        1.0,
        confidences[-1],
        entropies[-1],
        sum(confidences) / len(confidences),
        sum(entropies) / len(entropies),
    )
