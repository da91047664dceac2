"""What a model tends to write: counts of what followed one, two and three tokens in text of its own, with back-off.

The store is four flat arrays that may be memory-mapped. Building it from text, and files, are not its business.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Self

import numpy as np

from specbound_controller.sources.source import Candidate

ORDERS = (3, 2, 1)
"""Tokens of a context, the longest first."""
RANKS = 4
"""Followers of a context that are kept, the most frequent first."""
COUNT_BUCKETS = (1, 2, 4, 16)
"""Least number of times that a follower was seen, for each bucket."""
MOST_COUNT = 255
MULTIPLIER = 0x9E3779B97F4A7C15
LENGTH_SEED = 0xD1B54A32D192ED03
MASK = (1 << 64) - 1
_RECORD_BYTES = 8 + 4 + RANKS * 5
"""Of one context, roughly: key, offset, followers with their counts."""


def context_key(context: Sequence[int]) -> int:
    """64 bits that stand for one to three tokens, never 0."""
    key = (len(context) * LENGTH_SEED) & MASK  # a small number would cancel a small token
    for token in context:
        key = ((key ^ (token + 1)) * MULTIPLIER) & MASK
        key ^= key >> 29
    return key | 1


class OwnText:
    """Contexts -> their most frequent followers."""

    def __init__(self, keys: np.ndarray, starts: np.ndarray, tokens: np.ndarray, counts: np.ndarray) -> None:
        """keys: (C,) uint64, ascending. starts: (C + 1,) uint32 into tokens (N,) int32 and counts (N,) uint8."""
        self.keys, self.starts, self.tokens, self.counts = keys, starts, tokens, counts
        self._found: dict[int, list[tuple[int, int]]] = {}

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def num_bytes(self) -> int:
        """Of the four arrays."""
        return sum(array.nbytes for array in (self.keys, self.starts, self.tokens, self.counts))

    @classmethod
    def count(cls, texts: Iterable[Sequence[int]], most_bytes: int = 20_000_000) -> Self:
        """Counts texts of token ids. Where the store would grow past `most_bytes`, the rarest contexts are left out."""
        followers: dict[int, Counter[int]] = {}
        for text in texts:
            for end in range(1, len(text)):
                for order in ORDERS:
                    if order <= end:
                        key = context_key(text[end - order : end])
                        found = followers.get(key)
                        if found is None:
                            found = followers[key] = Counter()
                        found[text[end]] += 1
        kept = list(followers)
        most = max(0, most_bytes // _RECORD_BYTES)
        if len(kept) > most:
            kept = sorted(kept, key=lambda key: (-followers[key].total(), key))[:most]
        kept.sort()
        rows = [sorted(followers[key].items(), key=lambda item: (-item[1], item[0]))[:RANKS] for key in kept]
        starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.uint32)
        flat = [pair for row in rows for pair in row]
        return cls(
            np.array(kept, dtype=np.uint64),
            starts,
            np.array([token for token, _ in flat], dtype=np.int32),
            np.array([min(count, MOST_COUNT) for _, count in flat], dtype=np.uint8),
        )

    def followers(self, context: Sequence[int]) -> list[tuple[int, int]]:
        """(token, times seen) after a context, the most frequent first; empty where it was never seen."""
        key = context_key(context)
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = self._read(key)
            if len(self._found) > 50_000:
                self._found = {}
        return found

    def _read(self, key: int) -> list[tuple[int, int]]:
        place = int(np.searchsorted(self.keys, np.uint64(key)))
        if place == len(self.keys) or int(self.keys[place]) != key:
            return []
        first, last = int(self.starts[place]), int(self.starts[place + 1])
        return list(zip(self.tokens[first:last].tolist(), self.counts[first:last].tolist(), strict=True))


CELLS = {
    (order, rank, bucket): (place * RANKS + rank) * len(COUNT_BUCKETS) + bucket
    for place, order in enumerate(ORDERS)
    for rank in range(RANKS)
    for bucket in range(len(COUNT_BUCKETS))
}
"""(length of the context, rank, bucket of the count) -> cell."""
BUCKET_OF = [sum(count >= least for least in COUNT_BUCKETS) - 1 for count in range(MOST_COUNT + 1)]


class OwnTextSource:
    """Proposes by the store: of the longest context that it knows first. Every sequence may share the store."""

    name = "own_text"
    num_cells = len(CELLS)

    def __init__(self, store: OwnText) -> None:
        self.store = store

    def reset(self) -> None:
        """Nothing belongs to a sequence."""

    def extend(self, tokens: Sequence[int]) -> None:
        """Nothing to learn."""

    def propose(self, tail: tuple[int, ...]) -> list[Candidate]:
        """At most `RANKS` tokens; the cell says the length of the context, the rank, and how often it was seen."""
        proposed: list[Candidate] = []
        seen: set[int] = set()
        for order in ORDERS:
            if order > len(tail):
                continue
            for token, count in self.store.followers(tail[-order:]):
                if token in seen:
                    continue
                seen.add(token)
                proposed.append((token, CELLS[order, len(proposed), BUCKET_OF[count]]))
                if len(proposed) == RANKS:
                    return proposed
        return proposed
