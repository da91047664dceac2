"""Caches of finished answers, from which the next turn of a conversation continues. Knows no model.

A cache is found by its tokens, every one of them, so that nobody is continued from a text that is not his own prompt.
"""

from collections.abc import Sequence

from specbound.decoding.model.cache import DecodeCache

FEWEST_TOKENS = 8
"""A shorter common beginning is run again."""


class PrefixCaches:
    """The newest ones, within a bound of memory."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held: list[DecodeCache] = []
        """The one that was used longest ago first."""

    @property
    def num_bytes(self) -> int:
        return sum(cache.num_bytes for cache in self._held)

    @property
    def is_off(self) -> bool:
        return self._max_bytes == 0

    def longest(self, prompt: Sequence[int]) -> DecodeCache | None:
        """A copy of the longest beginning of the prompt that is held, its last token left out."""
        best, most = None, FEWEST_TOKENS - 1
        for cache in self._held:
            length = common_length(cache.tokens, prompt[:-1])
            if length > most:
                best, most = cache, length
        if best is None:
            return None
        self._held.remove(best)
        self._held.append(best)
        return best.copy_of_row(best.tokens[:most])

    def keep(self, cache: DecodeCache) -> None:
        """One more, in place of those that it begins with; the oldest ones make room."""
        length = len(cache.tokens)
        if length < FEWEST_TOKENS or cache.num_bytes > self._max_bytes:
            return
        self._held = [each for each in self._held if common_length(each.tokens, cache.tokens) < len(each.tokens)]
        self._held.append(cache)
        self.shrink(self._max_bytes)

    def shrink(self, most_bytes: int) -> None:
        """Drops the oldest ones until the rest takes no more than that."""
        while self._held and self.num_bytes > most_bytes:
            del self._held[0]

    def clear(self) -> None:
        self._held = []


def common_length(one: Sequence[object], other: Sequence[object]) -> int:
    """Tokens, or characters, that two texts begin with alike."""
    shorter = min(len(one), len(other))
    if list(one[:shorter]) == list(other[:shorter]):
        return shorter
    return next(index for index in range(shorter) if one[index] != other[index])
