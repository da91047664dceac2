"""Texts whose next tokens have known chances, which only two sources together tell."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from specbound_controller.sources.bigrams import BigramTable
from specbound_controller.sources.own_text import OwnText
from specbound_controller.sources.stores import Stores
from specbound_profiling.log.trace import PromptTrace

VOCABULARY = 48
AGREED, ALONE = (0.75, 0.1), (0.2, 0.2, 0.2)
"""Chances of the bigrams of a token, best first: of a token that own text knows too, of another. The rest is even."""


@dataclass(frozen=True, slots=True)
class KnownText:
    """A Markov chain, and stores that say the same of it."""

    stores: Stores
    chances: np.ndarray
    """Of every token after every token. (V, V)"""
    traces: list[PromptTrace]


def known_text(traces_of: Callable[..., list[PromptTrace]], num_prompts: int, num_positions: int) -> KnownText:
    """Texts of random starts. Own text knows the even tokens, and says of them what bigrams say first."""
    rng = np.random.default_rng(0)
    best = np.stack([rng.permutation(VOCABULARY)[:8] for _ in range(VOCABULARY)]).astype(np.int32)
    chances = np.zeros((VOCABULARY, VOCABULARY))
    for token in range(VOCABULARY):
        own = AGREED if token % 2 == 0 else ALONE
        chances[token, best[token, : len(own)]] = own
        chances[token] += (1 - sum(own)) / VOCABULARY
    own_text = OwnText.count([[token, int(best[token, 0])] for token in range(0, VOCABULARY, 2)])
    found = []
    for trace in traces_of(0, num_prompts, num_positions):
        tokens = [int(rng.integers(VOCABULARY))]
        while len(tokens) < num_positions:
            tokens.append(int(rng.choice(VOCABULARY, p=chances[tokens[-1]])))
        told = np.stack([rng.permutation(VOCABULARY)[:8] for _ in tokens])  # recycled tokens say nothing
        prompt = rng.integers(0, VOCABULARY, trace.prompt_length)
        found.append(replace(trace, tokens=np.array(tokens), prompt_tokens=prompt, best_tokens=told))
    return KnownText(Stores(BigramTable(best), own_text), chances, found)


@pytest.fixture(scope="session")
def known(traces_of: Callable[..., list[PromptTrace]]) -> KnownText:
    """12 prompts of 60 tokens."""
    return known_text(traces_of, 12, 60)
