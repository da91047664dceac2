"""The full model's best tokens where it last saw a token (Token Recycling, Luo et al., arXiv 2408.08696).

Knows one sequence: its accepted path and its prompt, so that a replay knows it as well.
"""

from collections.abc import Sequence

from specbound_controller.sources.source import MOST_CANDIDATES, Candidate


class RecycledSource:
    """Token -> what the full model found most probable after it, at the newest verified position that held it."""

    name = "recycled"
    num_cells = MOST_CANDIDATES

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begins a sequence."""
        self._rows: dict[int, list[Candidate]] = {}

    def extend(self, tokens: Sequence[int]) -> None:
        """The tokens alone say nothing; `observe` does."""

    def observe(self, token: int, best: Sequence[int]) -> None:
        """A verified position held `token`, and the full model's best tokens there were these, best first."""
        self._rows[token] = [(other, rank) for rank, other in enumerate(best[:MOST_CANDIDATES])]

    def propose(self, tail: tuple[int, ...]) -> list[Candidate]:
        """The cell is the rank."""
        return self._rows.get(tail[-1], [])
