"""What a recording holds of every prompt. Knows no model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from specbound_controller.draft_vocabulary import DraftVocabulary
from specbound_profiling.log.trace import DEFAULT_TEMPERATURES
from specbound_profiling.recording.rollout import RolloutSettings


@dataclass(frozen=True, slots=True)
class RecordSettings:
    """What to record of every prompt."""

    exit_layers: tuple[int, ...]
    """Layers to read the head after, shallow to deep, each in [1, L - 1]; 0 first for what the context says."""
    max_new_tokens: int
    eos_token_ids: tuple[int, ...] | None = None
    """Tokens that end a continuation; None takes the model's own."""
    temperatures: tuple[float, ...] = DEFAULT_TEMPERATURES
    sampling: Mapping[str, Any] = field(default_factory=lambda: {"do_sample": False})
    """Arguments of the decoder that choose the tokens; its `seed` is that of the first prompt, the next one's is one
    higher, as in a batch of the decoder."""
    rollouts: RolloutSettings | None = None
    num_drafts: int = 8
    """Drafts of a step, from the first on, of which is recorded what trained exits that read the full model's verified
    state say; of others, which say the same of every draft, one is. At least 1."""
    draft_vocabulary: DraftVocabulary | None = None
    """Tokens that exits read and draft; None is all."""
