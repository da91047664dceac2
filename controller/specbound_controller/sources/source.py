"""What every layer-free source of draft tokens has in common: it is shown tokens, and proposes what comes next."""

from collections.abc import Sequence
from typing import Protocol

TAIL = 8
"""Newest tokens of a path that a source may look at."""
MOST_CANDIDATES = 8
"""Candidates that a source proposes at most, best first."""


Candidate = tuple[int, int]
"""A token that may come next, and the cell of the source's acceptance rates that its signals fall into."""


class DraftSource(Protocol):
    """Proposes tokens for one sequence. A pure function of what it was shown, so that a replay finds the same."""

    @property
    def name(self) -> str:
        """`context`, `own_text`, `bigrams` or `recycled`."""

    @property
    def num_cells(self) -> int:
        """Cells that the signals of its candidates are sorted into: rank, length of the match, ..."""

    def reset(self) -> None:
        """Begins a sequence."""

    def extend(self, tokens: Sequence[int]) -> None:
        """The sequence grew by these committed tokens."""

    def propose(self, tail: tuple[int, ...]) -> Sequence[Candidate]:
        """What may come after a path whose newest tokens (at most `TAIL`) are these; best first, each token once."""
