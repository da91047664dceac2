"""The policy interface, and policies that decide the same at every step: SpecBound's static one is fixed too.

Knows no model and no log; a policy is asked once per step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeGuard

import numpy as np

from specbound_controller.draft_vocabulary import DraftVocabulary
from specbound_controller.records import Decision, ExitSignals, StepRecord
from specbound_controller.step_batch import Choices, StepBatch


class Policy(Protocol):
    """Chooses thresholds and bounds step by step."""

    @property
    def needs_features(self) -> bool:
        """Whether `decide` reads the step features (the decoder leaves them out otherwise)."""

    @property
    def needs_full_signals(self) -> bool:
        """Whether the next step's record must hold the full model's confidence, entropy and margin (one pass over
        the logits of its last position)."""

    def reset(self) -> None:
        """Forgets the last prompt."""

    def decide(self, features: np.ndarray | None) -> Decision:
        """The decision for the step that begins. features: (F,) float32 in the order of `FEATURE_NAMES`."""

    def observe(self, record: StepRecord) -> None:
        """Sees what the step did."""


class BatchPolicy(Policy, Protocol):
    """A policy that can decide for many sequences at once, each with a state of its own; replay uses it where it can.

    The choices are those of `decide` and `observe`, sequence by sequence, up to the rounding of matrix products.
    """

    @property
    def decisions(self) -> Sequence[Decision]:
        """All that it may choose."""

    def reset_batch(self, num_sequences: int) -> None:
        """Begins so many sequences anew."""

    def decide_batch(self, features: np.ndarray | None, rows: np.ndarray) -> Choices:
        """The decisions for the steps that some sequences begin. features: (R, F) float32, rows: (R,)"""

    def observe_batch(self, rows: np.ndarray, steps: StepBatch) -> None:
        """Sees what those steps did."""


def decides_in_batches(policy: Policy) -> TypeGuard[BatchPolicy]:
    """Whether a policy has the methods of `BatchPolicy`, and none of `Policy` that was replaced below them."""
    for kind in type(policy).__mro__:
        if "decide_batch" in vars(kind):
            return True
        if vars(kind).keys() & {"reset", "decide", "observe"}:
            return False
    return False


@dataclass(frozen=True, slots=True)
class AnnealedConfidence:
    """SpecBound's exit score (ACT): the largest probability after dividing by a layer temperature.

    `T_e = 1 + alpha * (1 - e / L)`: the shallower the exit, the more its confidence is discounted.
    """

    alpha: float
    """Strength of the annealing; 0 is plain confidence."""

    @property
    def is_learned(self) -> bool:
        return False

    def temperature(self, exit_layer: int, num_layers: int) -> float:
        """At exit layer 0 it is of no effect: a lookup has no logits."""
        return 1.0 + self.alpha * (1.0 - exit_layer / num_layers)

    def __call__(self, signals: ExitSignals, features: np.ndarray | None) -> float:
        return signals.annealed_confidence


class FixedPolicy:
    """One decision at every step, whatever its score."""

    needs_features = False
    needs_full_signals = False

    def __init__(self, decision: Decision) -> None:
        self._decision = decision

    def reset(self) -> None:
        """Nothing to forget."""

    def decide(self, features: np.ndarray | None) -> Decision:
        return self._decision

    def observe(self, record: StepRecord) -> None:
        """Nothing to learn."""

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """The only one."""
        return (self._decision,)

    def reset_batch(self, num_sequences: int) -> None:
        """Nothing to forget."""

    def decide_batch(self, features: np.ndarray | None, rows: np.ndarray) -> Choices:
        """The same for all."""
        return Choices(np.zeros(len(rows), dtype=np.int64), np.zeros(len(rows), dtype=bool))

    def observe_batch(self, rows: np.ndarray, steps: StepBatch) -> None:
        """Nothing to learn."""


class StaticPolicy(FixedPolicy):
    """The same decision at every step: SpecBound's bounded speculation with cached states.

    Example:
        >>> StaticPolicy(exit_layers=(3,), threshold=0.7, w_max=6, alpha=0.5)
    """

    def __init__(
        self,
        exit_layers: Sequence[int],
        threshold: float | Sequence[float] = 0.7,
        w_max: int = 6,
        alpha: float = 0.0,
        d_max: int | None = None,
        combine: str = "token",
        guarded: bool = False,
    ) -> None:
        """Exit layers with one threshold for all, or one each. A threshold of 0 drafts `w_max` tokens always.

        guarded: fall back to plain decoding where drafts do not pay. A decoder then prices steps by this machine's
            cost table, which is measured at the first use of a model (half a minute) and kept.
        """
        thresholds = [threshold] * len(exit_layers) if isinstance(threshold, int | float) else list(threshold)
        if len(thresholds) != len(exit_layers):
            raise ValueError(f"threshold must be one number or {len(exit_layers)}, got {len(thresholds)}")
        self.exit_layers = tuple(exit_layers)
        self.guarded = guarded
        decision = Decision(
            w_max=w_max if exit_layers else 0,
            thresholds=dict(zip(self.exit_layers, thresholds, strict=True)),
            score=AnnealedConfidence(alpha),
            combine=combine,
            d_max=d_max,
        )
        super().__init__(decision)


class DraftingFrom:
    """Another policy whose exits read and draft the tokens of a draft vocabulary only.

    Its thresholds must have been chosen on signals of that vocabulary. A controller's decisions say theirs themselves.

    Example:
        >>> DraftingFrom(vocabulary, StaticPolicy(exit_layers=(3,), threshold=0.7, w_max=6))
    """

    def __init__(self, vocabulary: DraftVocabulary, policy: Policy) -> None:
        self.vocabulary, self.policy = vocabulary, policy

    @property
    def needs_features(self) -> bool:
        return self.policy.needs_features

    @property
    def needs_full_signals(self) -> bool:
        return self.policy.needs_full_signals

    def reset(self) -> None:
        self.policy.reset()

    def decide(self, features: np.ndarray | None) -> Decision:
        """The other's decision, over the draft vocabulary."""
        return replace(self.policy.decide(features), draft_vocabulary=self.vocabulary)

    def observe(self, record: StepRecord) -> None:
        self.policy.observe(record)
