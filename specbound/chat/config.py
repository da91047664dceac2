"""The config of `specbound chat`. Imports no torch, so that `--help` is fast."""

from dataclasses import dataclass

from specbound.generation.config import DecoderConfig
from specbound_controller.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatConfig(DecoderConfig):
    """Talks with a model in the terminal, or answers the lines of standard input; /reset begins anew, /exit ends."""

    model: str = "smollm2"
    """smollm2 (brought by make smollm2), demo (with --raw), a folder, a Hugging Face name, or a GGUF file."""
    max_new_tokens: int = 512
    """Most tokens of an answer, at least 1."""
    system: str | None = None
    """What the model is told before the conversation, as its system prompt."""
    raw: bool = False
    """Continue text: every line goes on from all text so far, without a chat template. For models that have none."""
    show_drafts: bool = False
    """Shade tokens by who drafted them; in a terminal with colours."""

    def __post_init__(self) -> None:
        DecoderConfig.__post_init__(self)
        if self.system is not None and self.raw:
            raise InputError("system and raw must not be given together: a system prompt needs the chat template")
