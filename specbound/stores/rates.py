"""How often the candidates of draft sources are right, counted on text that a model wrote.

Answers to an eighth of the prompts are held out: what the sources draw from is counted on the others.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from specbound_controller.sources.bigrams import BigramSource, BigramTable
from specbound_controller.sources.context import ContextSource
from specbound_controller.sources.own_text import OwnText, OwnTextSource
from specbound_controller.sources.source import TAIL, DraftSource
from specbound_controller.trees.rates import RateCounts, prior_rates

HELD_OUT = 8
"""One prompt of so many is held out."""
MOST_TOKENS = 50_000
"""Held out tokens that are counted at most."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A prompt, and what the model wrote after it."""

    prompt_id: str
    prompt: Sequence[int]
    tokens: Sequence[int]

    @property
    def is_held_out(self) -> bool:
        return zlib.crc32(self.prompt_id.encode()) % HELD_OUT == 0


def counted_rates(answers: Sequence[Answer], bigrams: BigramTable, most_bytes: int) -> dict[str, list[float]]:
    """Source -> acceptance rate of each of its cells, shrunk to the priors.

    Recycled tokens are not among them: what the model would have proposed is not in the text.

    Args:
        most_bytes: of the counts of own text, as they will be used.
    """
    store = OwnText.count([answer.tokens for answer in answers if not answer.is_held_out], most_bytes)
    sources: list[DraftSource] = [ContextSource(), BigramSource(bigrams), OwnTextSource(store)]
    counts, num_tokens = RateCounts(sources), 0
    for answer in answers:
        if not answer.is_held_out or num_tokens >= MOST_TOKENS:
            continue
        num_tokens += len(answer.tokens)
        for source in sources:
            source.reset()
            source.extend(answer.prompt)
        tail = tuple(answer.prompt[-TAIL:])
        for token in answer.tokens:
            counts.count(tail, token)
            tail = (*tail, token)[-TAIL:]
            for source in sources:
                source.extend([token])
    return counts.rates(prior_rates())
