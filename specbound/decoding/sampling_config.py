"""How the next token is chosen, as commands are told. Imports no torch, so that `--help` is fast."""

from dataclasses import dataclass
from typing import Any

from specbound_controller.errors import InputError, require_at_least


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingConfig:
    """How the next token is chosen: greedily unless asked otherwise."""

    sample: bool = False
    """Draw tokens at random instead of taking the most probable ones."""
    temperature: float = 1.0
    """Divides the logits before sampling; above 0."""
    top_k: int = 0
    """Sample among so many of the most probable tokens; 0 keeps all."""
    top_p: float = 1.0
    """Sample among the most probable tokens that hold this much probability together; above 0, at most 1."""
    seed: int = 0
    """Seed of sampling: the same seed gives the same text, with drafts or without."""

    def __post_init__(self) -> None:
        require_at_least(0, top_k=self.top_k, seed=self.seed)
        if not self.temperature > 0:
            raise InputError(f"temperature must be > 0, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if not self.sample and (self.temperature, self.top_k, self.top_p) != (1.0, 0, 1.0):
            raise InputError("temperature, top_k and top_p need sample: without it the most probable token is taken")

    def generate_arguments(self) -> dict[str, Any]:
        """The arguments of the decoder that these settings stand for."""
        if not self.sample:
            return {"do_sample": False}
        return {
            "do_sample": True,
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "seed": self.seed,
        }
