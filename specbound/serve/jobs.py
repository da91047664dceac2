"""One answer that somebody waits for, and what its owner is told. Knows no model, no queue and no HTTP."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from specbound.serve.errors import ApiError
from specbound.serve.logprobs import TokenChance


@dataclass(frozen=True, slots=True)
class Piece:
    """More of an answer."""

    text: str
    chances: tuple[TokenChance, ...] = ()
    """Of the tokens since the last piece, where they were asked for."""


@dataclass(frozen=True, slots=True)
class End:
    """An answer is complete."""

    reason: str
    """`stop` (an end token or a stop text) or `length` (tokens or time)."""
    num_tokens: int
    num_accepted: int
    num_rejected: int


@dataclass(frozen=True, slots=True)
class Failure:
    """An answer will not come, or not go on."""

    error: ApiError


Event = Piece | End | Failure


@dataclass(slots=True, eq=False)
class Job:
    """One answer that somebody waits for."""

    prompt: tuple[int, ...]
    """Token ids."""
    arguments: dict[str, Any]
    """Of `SpecBoundDecoder.generate`; with `output_logits` where chances of tokens are asked for."""
    stops: tuple[str, ...]
    tell: Callable[[Event], None]
    """Called by the engine's thread; the last event is an `End` or a `Failure`."""
    num_best: int | None = None
    """Most probable tokens that are told at each place, with the chance of the chosen one; None tells no chances."""
    arrived: float = field(default_factory=time.perf_counter)
    is_gone: bool = False
    """Nobody waits for it any more."""

    @property
    def most_tokens(self) -> int:
        """Of prompt and answer together."""
        return len(self.prompt) + int(self.arguments["max_new_tokens"])
