"""Drafts that cost no layer: what followed the last time that the sequence's newest tokens stood in its own context.

`exit_layer` 0: no layer runs, no head is read. Matching the newest tokens against the prompt and the output is prompt
lookup (Saxena, 2023), n-gram drafting in vLLM; here it is one more exit, with a score and a threshold like the others.
Knows tokens only. One definition for profiling, training and decoding.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, overload

import numpy as np

LOOKUP_EXIT = 0
"""The `exit_layer` of looked-up drafts."""
MAX_MATCH = 8
"""Tokens compared at most: a longer match says little more."""
MAX_CANDIDATES = 16
"""Earlier places compared at most, the latest first: what a lookup costs does not grow with the context."""
NO_TOKEN = -1
"""The draft token where nothing was found; no token of a vocabulary."""


class Lookup(NamedTuple):
    """What the context says comes next."""

    token: int
    """`NO_TOKEN` where it says nothing."""
    length: int
    """How many of the newest tokens were matched; 0 where nothing was found."""
    probability: float
    """Share of the places looked at that the token followed."""
    entropy_nats: float
    """Of what followed at those places."""
    margin: float
    """Logarithm of how much more often the token followed than the most frequent other one (half a time more each)."""
    recency: float
    """Minus the logarithm of how many tokens ago the match was followed."""


NOTHING = Lookup(NO_TOKEN, 0, 0.0, 0.0, 0.0, 0.0)
"""Where the context says nothing."""


def _lookup(token: int, length: int, counts: dict[int, int], distance: int) -> Lookup:
    """counts: token -> places that it followed."""
    total, own = sum(counts.values()), counts[token]
    rival = max((number for other, number in counts.items() if other != token), default=0)
    entropy = 0.0
    if rival:
        entropy = -sum(number / total * math.log(number / total) for number in counts.values())
    return Lookup(token, length, own / total, entropy, math.log((own + 0.5) / (rival + 0.5)), -math.log(distance))


class _Places:
    """Where each run of `size` tokens was followed by another token: the last place, and at each place the one before.

    What was appended last can be taken back.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.last: dict[tuple[int, ...], int] = {}
        self.before: list[int] = []
        """-1 where there is none."""

    def latest(self, tokens: list[int]) -> int:
        """The last place that the newest tokens were followed at, -1 if never."""
        return self.last.get(tuple(tokens[-self.size :]), -1)

    def append(self, tokens: list[int]) -> None:
        """Another token is about to follow the newest ones."""
        self.before.append(self.latest(tokens))
        self.last[tuple(tokens[-self.size :])] = len(tokens)

    def take_back(self, tokens: list[int]) -> None:
        """The token that followed the newest ones has just been removed."""
        key, earlier = tuple(tokens[-self.size :]), self.before.pop()
        if earlier < 0:
            del self.last[key]
        else:
            self.last[key] = earlier


class ContextLookup:
    """Index of one sequence. A pure function of the tokens: how they came, and what was taken back, leaves no trace."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._num_committed = 0
        self._ones, self._twos = _Places(1), _Places(2)

    def find(self, committed: Sequence[int], drafted: Sequence[int] = ()) -> Lookup:
        """What followed the newest tokens before.

        Of at most `MAX_CANDIDATES` places, the latest ones, where the two newest tokens stood (failing that, where the
        newest one stood), the one that most tokens match; the latest of equals.

        Args:
            committed: tokens of prompt and output; those of an earlier call are its beginning.
            drafted: tokens after them, which may be others at the next call.
        """
        self._hold(committed, drafted)
        tokens, count = self._tokens, len(self._tokens)
        places, shortest = self._twos, 2
        place = places.latest(tokens) if count >= 2 else -1
        if place < 0:
            places, shortest = self._ones, 1
            place = places.latest(tokens)
        if place < 0:
            return NOTHING
        best, longest = place, 0
        counts: dict[int, int] = {}
        for _ in range(MAX_CANDIDATES):
            token = tokens[place]
            counts[token] = counts.get(token, 0) + 1
            if longest < MAX_MATCH:
                length, most = shortest, min(MAX_MATCH, place)
                while length < most and tokens[place - 1 - length] == tokens[count - 1 - length]:
                    length += 1
                if length > longest:
                    best, longest = place, length
            place = places.before[place]
            if place < 0:
                break
        return _lookup(tokens[best], longest, counts, count - best)

    def _hold(self, committed: Sequence[int], drafted: Sequence[int]) -> None:
        """Makes the index that of `committed + drafted`: takes back what differs, appends what is new."""
        tokens, first = self._tokens, self._num_committed
        wanted = [*committed[first:], *drafted]
        same = 0
        for held, token in zip(tokens[first:], wanted, strict=False):
            if held != token:
                break
            same += 1
        while len(tokens) > first + same:
            tokens.pop()
            self._ones.take_back(tokens)
            self._twos.take_back(tokens)
        for token in wanted[same:]:
            self._ones.append(tokens)
            self._twos.append(tokens)
            tokens.append(token)
        self._num_committed = len(committed)


@overload
def lookup_confidence(length: int) -> float: ...
@overload
def lookup_confidence(length: np.ndarray) -> np.ndarray: ...
def lookup_confidence(length: int | np.ndarray) -> float | np.ndarray:
    """What stands for the confidence of a looked-up draft: rises with the match, 0 without one, below 1."""
    return length / (length + 1.0)


def lookup_length(confidence: np.ndarray) -> np.ndarray:
    """The inverse of `lookup_confidence`, for arrays of any shape."""
    values = np.asarray(confidence, dtype=np.float64)
    length: np.ndarray = np.rint(values / (1.0 - values)).astype(np.int64)
    return length
