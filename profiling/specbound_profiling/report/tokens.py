"""The token view's content: generated text token by token, and what every exit would have drafted there.

Text comes from a function that decodes token ids; without one, the ids themselves are shown. Knows no HTML.
"""

# P positions, E exit layers

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from specbound_controller.lookup import NO_TOKEN
from specbound_profiling.log.trace import PromptTrace, interpolate_confidence
from specbound_profiling.replay.annealing import annealed_temperature

WINDOW = 8
"""Tokens before a token that its text is read with: spaces and characters of several tokens depend on them."""

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True)
class ViewedToken:
    """One generated token, and every exit's draft of it."""

    text: str
    first_exit: int | None
    """Index of the first exit layer that agrees with the full model; None where none does."""
    full: tuple[float, float, float]
    """Full model's confidence, entropy (nats) and margin."""
    drafts: tuple[tuple[str, float, float, float, bool], ...]
    """Each exit's draft: text, confidence, annealed confidence, entropy (nats), whether it is accepted. (E,)"""


@dataclass(frozen=True, slots=True)
class ViewedPrompt:
    """One prompt's continuation."""

    prompt_id: str
    task: str
    tokens: tuple[ViewedToken, ...]


@dataclass(frozen=True, slots=True)
class LevelView:
    """The token view of one compression level."""

    exit_layers: tuple[int, ...]
    shares: tuple[float, ...]
    """Share of all generated tokens whose first agreeing exit is this one. (E,)"""
    prompts: tuple[ViewedPrompt, ...]

    @property
    def share_of_none(self) -> float:
        """Share of tokens that no recorded exit foretells."""
        return max(0.0, 1.0 - sum(self.shares))


def view_level(
    traces: Sequence[PromptTrace], alpha: float, num_layers: int, count: int, decode: Decode | None
) -> LevelView:
    """Some prompts of a level, spread over the kinds of content; shares are over all of them.

    Args:
        alpha: strength of annealing of the annealed confidence.
        decode: token ids -> text; None shows the ids.
    """
    first = np.concatenate([first_agreeing(trace) for trace in traces])
    return LevelView(
        exit_layers=traces[0].exit_layers,
        shares=tuple(float((first == e).mean()) for e in range(len(traces[0].exit_layers))),
        prompts=tuple(_view(trace, alpha, num_layers, decode) for trace in _spread(traces, count)),
    )


def first_agreeing(trace: PromptTrace) -> np.ndarray:
    """Index of the first exit that agrees with the full model at each position, E where none does. (P,) int64"""
    found = trace.is_accepted.argmax(axis=1)
    return np.where(trace.is_accepted.any(axis=1), found, len(trace.exit_layers))


def _spread(traces: Sequence[PromptTrace], count: int) -> list[PromptTrace]:
    """The first of each task, the second of each, ... until there are so many; in the log's order."""
    seen: dict[str, int] = {}
    ranked = []
    for index, trace in enumerate(traces):
        seen[trace.task] = seen.get(trace.task, 0) + 1
        ranked.append((seen[trace.task], index))
    return [traces[index] for index in sorted(index for _, index in sorted(ranked)[:count])]


def _draft_text(before: list[int], token: int, decode: Decode | None) -> str:
    """What an exit drafts; nothing where a lookup finds nothing."""
    return "" if token == NO_TOKEN else token_text(before, token, decode)


def _view(trace: PromptTrace, alpha: float, num_layers: int, decode: Decode | None) -> ViewedPrompt:
    exits, first, tokens = range(len(trace.exit_layers)), first_agreeing(trace), trace.tokens.tolist()
    wanted = [annealed_temperature(alpha, exit_layer, num_layers) for exit_layer in trace.exit_layers]
    annealed = np.stack(
        [interpolate_confidence(trace.confidence_at[:, e], trace.temperatures, wanted[e]) for e in exits], axis=1
    )
    viewed = []
    for p, token in enumerate(tokens):
        before = tokens[max(0, p - WINDOW) : p]
        drafts = tuple(
            (
                _draft_text(before, int(trace.draft_token[p, e]), decode),
                float(trace.confidence[p, e]),
                float(annealed[p, e]),
                float(trace.entropy_nats[p, e]),
                bool(trace.is_accepted[p, e]),
            )
            for e in exits
        )
        full = (float(trace.full_confidence[p]), float(trace.full_entropy_nats[p]), float(trace.full_margin[p]))
        first_exit = int(first[p]) if first[p] < len(exits) else None
        viewed.append(ViewedToken(token_text(before, token, decode), first_exit, full, drafts))
    return ViewedPrompt(trace.prompt_id, trace.task, tuple(viewed))


def token_text(before: Sequence[int], token: int, decode: Decode | None) -> str:
    """What a token adds to the text of the tokens before it; its id and a space without a decoder."""
    if decode is None:
        return f"{token} "
    start, whole = decode(before), decode([*before, token])
    return whole[len(start) :] if whole.startswith(start) and len(whole) > len(start) else decode([token])
