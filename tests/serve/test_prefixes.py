"""Caches of finished answers: found by all their tokens, copied, and bounded in memory."""

import torch

from specbound.decoding.model.cache import DecodeCache
from specbound.serve.prefixes import PrefixCaches, common_length

BYTES_OF_TOKEN = 2 * 2 * 4 * 8 * 4
"""Two layers, keys and values, four heads of width 8 in fp32."""


def cache_of(tokens: list[int]) -> DecodeCache:
    """Its keys are the tokens' own numbers."""
    cache = DecodeCache([None, None], capacity=len(tokens))
    states = torch.tensor(tokens, dtype=torch.float32).view(1, 1, -1, 1).expand(1, 4, -1, 8)
    for layer in cache.layers:
        layer.update(states, states)
    cache.tokens = list(tokens)
    return cache


def test_the_longest_beginning_is_copied_without_the_prompts_last_token() -> None:
    prefixes = PrefixCaches(10**6)
    prefixes.keep(cache_of([*range(20)]))
    prefixes.keep(cache_of([*range(12), 99, 98]))
    found = prefixes.longest([*range(15), 50, 51])
    assert found is not None and found.tokens == [*range(15)] and found.lengths() == [15, 15]
    assert found.layers[1].keys[0, 3, :, 7].tolist() == [*range(15)]
    whole = prefixes.longest([*range(20)])
    assert whole is not None and whole.tokens == [*range(19)]
    found.layers[0].keys.zero_()
    again = prefixes.longest([*range(15), 50, 51])
    assert again is not None and again.layers[0].keys.sum() > 0


def test_other_texts_and_short_beginnings_find_nothing() -> None:
    prefixes = PrefixCaches(10**6)
    prefixes.keep(cache_of([*range(20)]))
    assert prefixes.longest([5, *range(20)]) is None
    assert prefixes.longest([*range(7), 99, 99, 99]) is None
    assert prefixes.longest([3]) is None


def test_a_conversation_takes_the_place_of_its_own_beginning() -> None:
    prefixes = PrefixCaches(10**6)
    prefixes.keep(cache_of([*range(20)]))
    prefixes.keep(cache_of([*range(30)]))
    assert prefixes.num_bytes == 30 * BYTES_OF_TOKEN


def test_memory_is_bounded_and_the_oldest_goes_first() -> None:
    prefixes = PrefixCaches(50 * BYTES_OF_TOKEN)
    one, two, three = ([start + each for each in range(20)] for start in (0, 100, 200))
    prefixes.keep(cache_of(one))
    prefixes.keep(cache_of(two))
    assert prefixes.longest([*one, 7]) is not None  # used again, so that the other one is the oldest
    prefixes.keep(cache_of(three))
    assert prefixes.num_bytes == 40 * BYTES_OF_TOKEN
    assert prefixes.longest([*two, 7]) is None and prefixes.longest([*one, 7]) is not None
    prefixes.keep(cache_of([*range(300, 360)]))
    assert prefixes.longest([*range(300, 360), 1]) is None
    assert PrefixCaches(0).is_off


def test_common_length() -> None:
    assert common_length([1, 2, 3], [1, 2, 4]) == 2 and common_length([1, 2], [1, 2, 3]) == 2
    assert common_length([], [1]) == 0
