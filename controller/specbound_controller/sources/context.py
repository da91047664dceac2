"""Continuations of earlier places of the sequence itself that read like its newest tokens (prompt lookup, n-grams).

Knows the tokens of one sequence.
"""

from collections.abc import Sequence

from specbound_controller.sources.source import TAIL, Candidate

MATCHES = (8, 6, 4, 3, 2, 1)
"""Lengths of a match that are tried, the longest first."""
RANKS = 4
"""Continuations of one sequence that are proposed at most."""
CELLS = {
    (match, rank, is_repeated): (place * RANKS + rank) * 2 + is_repeated
    for place, match in enumerate(MATCHES)
    for rank in range(RANKS)
    for is_repeated in (False, True)
}
"""(length of the match, rank, whether it was seen twice) -> cell."""


class ContextSource:
    """What followed the newest tokens before: of the longest match first, the latest first."""

    name = "context"
    num_cells = len(CELLS)

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begins a sequence."""
        self._tail: tuple[int, ...] = ()
        self._followers: dict[tuple[int, ...], dict[int, int]] = {}

    def extend(self, tokens: Sequence[int]) -> None:
        """Indexes the new tokens as followers of those before them."""
        followers, tail = self._followers, self._tail
        for token in tokens:
            for match in MATCHES:
                if match > len(tail):
                    continue
                key = tail[-match:]
                found = followers.get(key)
                if found is None:
                    followers[key] = {token: 1}
                else:
                    found[token] = found.pop(token, 0) + 1  # the latest stands last
            tail = (*tail, token)[-TAIL:]
        self._tail = tail

    def propose(self, tail: tuple[int, ...]) -> list[Candidate]:
        """At most `RANKS` tokens; the cell says the length of the match, the rank, and whether it was seen twice."""
        proposed: list[Candidate] = []
        seen: set[int] = set()
        held = len(tail)
        for match in MATCHES:
            if match > held:
                continue
            found = self._followers.get(tail[-match:])
            if found is None:
                continue
            for token in reversed(found):
                if token in seen:
                    continue
                seen.add(token)
                proposed.append((token, CELLS[match, len(proposed), found[token] > 1]))
                if len(proposed) == RANKS:
                    return proposed
        return proposed
