"""Candidates after one path by the learned score: all that the sources propose there, scored in one go."""

from collections.abc import Sequence
from operator import itemgetter

import numpy as np

from specbound_controller.sources.source import DraftSource
from specbound_controller.trees.node_features import NO_CELL
from specbound_controller.trees.node_score import NodeScore, depth_row

ScoredChild = tuple[float, int, str, int]
"""Chance, token, the first source that proposes it, and its cell there."""


class Scored:
    """The candidates of one step's tree."""

    def __init__(self, score: NodeScore, sources: Sequence[DraftSource], recent: Sequence[float]) -> None:
        """sources: some of the score's. recent: running means of all of the score's sources. (S,)"""
        self._score, self._num_sources = score, len(score.sources)
        self._asked = [(score.sources.index(source.name), score.starts[source.name], source) for source in sources]
        self._of_depths = score.of_depths(recent)

    def children(self, tail: tuple[int, ...], depth: int, breadth: int) -> list[ScoredChild]:
        """The best candidates after a path, the best first. depth: of the node that they would follow."""
        rows: dict[int, list[int]] = {}
        found: list[tuple[int, str, int]] = []
        origins: list[int] = []
        firsts = [NO_CELL] * self._num_sources
        for place, start, source in self._asked:
            proposed = source.propose(tail)
            if proposed:
                firsts[place] = start + proposed[0][1]
            for token, cell in proposed:
                row = rows.get(token)
                if row is None:
                    row = rows[token] = [NO_CELL] * self._num_sources
                    found.append((token, source.name, cell))
                    origins.append(place)
                row[place] = start + cell
        if not found:
            return []
        of_place = self._score.of_places(self._of_depths[depth_row(depth)][None], np.array([firsts]))
        cells = np.array(list(rows.values()))
        chances = self._score.chances(cells, np.array(origins), of_place).tolist()
        children = [(chance, *rest) for chance, rest in zip(chances, found, strict=True)]
        children.sort(key=itemgetter(0), reverse=True)
        return children[:breadth]
