"""Where a continuation begins to repeat itself: loops draft perfectly and would flatter every policy."""

from collections.abc import Iterable

LOOP_NGRAM = 8
"""Tokens in the repeated piece."""
LOOP_TIMES = 3
"""How often it may not stand."""


class LoopDetector:
    """Sees a continuation token by token."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._counts: dict[tuple[int, ...], int] = {}

    def add(self, token: int) -> int | None:
        """Takes the next token; the length to cut to where an 8-gram now stands for the third time, else None.

        The cut is before that third standing, so that two whole ones (which may overlap) are kept; at least 2 tokens.
        """
        self._tokens.append(token)
        if len(self._tokens) < LOOP_NGRAM:
            return None
        ngram = tuple(self._tokens[-LOOP_NGRAM:])
        self._counts[ngram] = self._counts.get(ngram, 0) + 1
        return len(self._tokens) - LOOP_NGRAM if self._counts[ngram] == LOOP_TIMES else None


def loop_cut(tokens: Iterable[int]) -> int | None:
    """Length to cut a whole continuation to, None where it does not loop."""
    detector = LoopDetector()
    for token in tokens:
        length = detector.add(token)
        if length is not None:
            return length
    return None
