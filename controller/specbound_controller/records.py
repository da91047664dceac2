"""What a policy sees and says: exit signals, decisions, step records. Plain values, no model, no tensors."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from specbound_controller.draft_vocabulary import DraftVocabulary
from specbound_controller.lookup import LOOKUP_EXIT, NO_TOKEN
from specbound_controller.trees.plan import TreePlan

STOP_REASONS = ("width", "depth", "eos", "off")
"""Why a draft ended: the width bound, no exit up to the depth bound, a drafted EOS, width 0 (plain decoding)."""


@dataclass(frozen=True, slots=True)
class ExitSignals:
    """What one exit layer says about the token it would draft."""

    exit_layer: int
    """Layers run before the head was read; 0 for a draft that was looked up in the context (`lookup`)."""
    draft_index: int
    """How many tokens this step had drafted before."""
    draft_token: int
    """The token that this exit drafts: under greedy decoding the most probable one."""
    confidence: float
    """Largest softmax probability at temperature 1."""
    annealed_confidence: float
    """Largest softmax probability at the temperature that the score asks for."""
    entropy_nats: float
    """Entropy at temperature 1, nats."""
    margin: float
    """Largest minus second largest log-probability."""
    noised_margin: float
    """The same after the sampling noise is added; equal to `margin` under greedy decoding."""
    draft_probability: float
    """Probability of the draft token, after the logits processors (temperature, top-k, ...) where there are any."""
    lookup_token: int = NO_TOKEN
    """The token that the context says comes next; `NO_TOKEN` where it says nothing, or where nobody asked."""
    lookup_length: int = 0
    """How many of the newest tokens that was matched by."""
    lookup_probability: float = 0.0
    """Share of the places in the context that say so."""

    @property
    def lookup_agreement(self) -> int:
        """1 where the context says the same as the exit, -1 where it says something else, 0 where nothing."""
        if self.lookup_length == 0:
            return 0
        return 1 if self.lookup_token == self.draft_token else -1


class ExitScore(Protocol):
    """Scores one exit: a pure function of its signals and of the features of the step.

    At exit layer 0 the signals are those of a `Lookup`: confidence stands for the length of the match
    (`lookup_confidence`, 0 where nothing was found), the draft's probability, entropy and margin are those among the
    places that were looked at, and the noised margin is the recency of the match.
    """

    @property
    def is_learned(self) -> bool:
        """Whether a network computes it, from the lookup's signals too: it has a price beside the exit test."""

    def temperature(self, exit_layer: int, num_layers: int) -> float:
        """Temperature at which `ExitSignals.annealed_confidence` is wanted for this exit of an L-layer model."""

    def __call__(self, signals: ExitSignals, features: np.ndarray | None) -> float:
        """A number that is compared with the threshold; a probability for calibrated scores."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a policy chooses for one step."""

    w_max: int
    """Width bound: most draft tokens in the step; 0 is plain decoding."""
    thresholds: Mapping[int, float] = field(default_factory=dict)
    """Exit layer -> threshold that the score must reach. A layer that is absent, or infinite, is not read. Layer 0 is
    the context lookup."""
    score: ExitScore | None = None
    """The exit score; may be None where every threshold is <= 0 (a fixed draft: no exit test is needed)."""
    combine: str = "token"
    """`token`: the score of each token is compared; `product`: the product over the draft so far."""
    d_max: int | None = None
    """Depth bound: deepest exit layer; None means the deepest with a finite threshold."""
    draft_vocabulary: DraftVocabulary | None = None
    """Tokens that exits read and draft; None is all. What the context says (exit layer 0) may be any token."""
    tree: TreePlan | None = None
    """Draft a tree by this plan in place of a chain; no exit is read then, and `w_max` bounds its depth."""

    def __post_init__(self) -> None:
        if self.w_max < 0:
            raise ValueError(f"w_max must be >= 0, got {self.w_max}")
        if self.combine not in ("token", "product"):
            raise ValueError(f"combine must be 'token' or 'product', got {self.combine!r}")
        if self.score is None and any(t > 0 and not math.isinf(t) for t in self.thresholds.values()):
            raise ValueError("score must be given where a threshold is above 0")
        if self.thresholds.get(LOOKUP_EXIT, math.inf) <= 0:
            raise ValueError(f"the threshold of exit layer {LOOKUP_EXIT} must be above 0: a lookup may find nothing")

    def exits(self) -> tuple[tuple[int, float], ...]:
        """(exit layer, threshold) pairs that are read, shallow to deep, up to the depth bound."""
        bound = self.d_max if self.d_max is not None else max(self.thresholds, default=0)
        return tuple((e, t) for e, t in sorted(self.thresholds.items()) if e <= bound and not math.isinf(t))


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step: a draft and its verification."""

    context_length: int
    """Committed tokens (prompt and output) before the step."""
    num_drafted: int
    """Draft tokens issued."""
    num_accepted: int
    """Draft tokens equal to the full model's, all before them being so too; cut at EOS or the length limit."""
    num_emitted: int
    """Tokens that the step added to the output: accepted plus the bonus token, less what EOS or the limit cut."""
    exit_layers: tuple[int, ...]
    """Exit layer of each draft token."""
    scores: tuple[float, ...]
    """Score of each draft token; nan where no test was needed."""
    confidences: tuple[float, ...]
    """Confidence of each draft token at its exit; nan where no test was needed."""
    entropies_nats: tuple[float, ...]
    """Entropy of each draft token at its exit; nan where no test was needed."""
    stop_reason: str
    """One of `STOP_REASONS`."""
    layer_calls_by_rows: Mapping[int, int]
    """Rows -> number of layer calls with that many rows."""
    head_reads_by_rows: Mapping[int, int]
    """Rows -> number of head reads with that many rows, drafting and verification together."""
    num_exit_tests: int
    """Exits whose statistics were taken (head reads with a threshold above 0; a lookup reads no head)."""
    full_confidence: float = math.nan
    """Full model's confidence at the last committed position; nan unless the policy asks for it."""
    full_entropy_nats: float = math.nan
    """Full model's entropy there, nats."""
    full_margin: float = math.nan
    """Full model's top-2 margin there, log-probabilities."""
    seconds: float = math.nan
    """Wall time of the step."""
    num_learned_scores: int = 0
    """Exit tests whose score a network computed."""
    sources: tuple[str, ...] = ()
    """Source of each draft token of a tree; empty for a chain."""
    parents: tuple[int, ...] = ()
    """Draft tree: the place of each draft token's parent, 0 the last committed token; empty for a chain."""
    path: tuple[int, ...] = ()
    """Draft tree: places of the accepted draft tokens, in order; empty for a chain."""

    @property
    def accepted_sources(self) -> list[str]:
        """What proposed each accepted draft token: a tree's sources; of a chain `context` (looked up) and `exit`."""
        if self.sources:
            return [self.sources[node - 1] for node in self.path]
        return ["context" if layer == LOOKUP_EXIT else "exit" for layer in self.exit_layers[: self.num_accepted]]

    @property
    def num_layer_calls(self) -> int:
        return sum(self.layer_calls_by_rows.values())

    @property
    def num_layer_rows(self) -> int:
        return sum(rows * calls for rows, calls in self.layer_calls_by_rows.items())
