"""The model's most probable tokens after each single token: a table that is made once per model.

Knows the table; how it is made is not its business.
"""

from collections.abc import Sequence

import numpy as np

from specbound_controller.sources.source import MOST_CANDIDATES, Candidate


class BigramTable:
    """The model's best tokens after each token, best first."""

    def __init__(self, best: np.ndarray) -> None:
        """best: (V, K) int32, K at most 8, -1 where there is none; may be memory-mapped."""
        if best.ndim != 2 or best.shape[1] > MOST_CANDIDATES:
            raise ValueError(f"best must be (V, at most {MOST_CANDIDATES}), got {best.shape}")
        self.best = best
        self._rows: dict[int, list[Candidate]] = {}

    def row(self, token: int) -> list[Candidate]:
        """The candidates after a token; none for a token outside the vocabulary."""
        found = self._rows.get(token)
        if found is None:
            best = self.best[token].tolist() if 0 <= token < len(self.best) else []
            found = self._rows[token] = [(other, rank) for rank, other in enumerate(best) if other >= 0]
        return found


class BigramSource:
    """Proposes by the table; every sequence may share it."""

    name = "bigrams"
    num_cells = MOST_CANDIDATES

    def __init__(self, table: BigramTable) -> None:
        self.table = table

    def reset(self) -> None:
        """Nothing belongs to a sequence."""

    def extend(self, tokens: Sequence[int]) -> None:
        """Nothing to learn."""

    def propose(self, tail: tuple[int, ...]) -> list[Candidate]:
        """The cell is the rank."""
        return self.table.row(tail[-1])
