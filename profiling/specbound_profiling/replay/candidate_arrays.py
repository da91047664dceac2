"""The candidates of all sources at many places at once, each token once, and what they are worth: by rates, or by a
learned score. Knows no tree.
"""

# n places, W candidates of all sources together, A asked sources, S sources of a score, N generated tokens of all texts

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from specbound_controller.sources.recent import START, after
from specbound_controller.trees.node_features import MOST_DEPTH, NO_CELL, first_cells
from specbound_controller.trees.node_score import NodeScore
from specbound_controller.trees.plan import Rates
from specbound_profiling.replay.source_arrays import NOTHING, ArraySource, Places, Texts

NEVER = -1.0
"""Score of what is no candidate."""
NONE = -1
"""In place of a cell where a source does not propose a token."""
_NO_TOKEN = -2
"""Equals no token, nor `NOTHING`."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """What sources propose at some places."""

    tokens: np.ndarray
    """Each where it stood first, `NOTHING` for none. (n, W)"""
    cells: np.ndarray
    """Of every source, `NONE` where it does not propose the token. (n, W, A)"""
    firsts: np.ndarray
    """Cell of each source's first candidate, `NONE` where it has none. (n, A)"""

    @property
    def is_one(self) -> np.ndarray:
        """Where a candidate stands. (n, W) bool"""
        found: np.ndarray = self.tokens != NOTHING
        return found


def candidates(places: Places, asked: Sequence[ArraySource]) -> Candidates:
    """Tokens of all sources; each token stands once, where it stood first."""
    count = len(places.text)
    tokens = np.zeros((count, 0), dtype=np.int32)
    cells = np.zeros((count, 0, len(asked)), dtype=np.int16)
    firsts = np.full((count, len(asked)), NONE, dtype=np.int16)
    for place, source in enumerate(asked):
        found, found_cells = source.propose(places)
        own = np.where(found == NOTHING, _NO_TOKEN, found).astype(np.int32)
        own_cells = np.full((*own.shape, len(asked)), NONE, dtype=np.int16)
        own_cells[..., place] = np.where(found == NOTHING, NONE, found_cells)
        firsts[:, place] = own_cells[:, 0, place]
        again = np.flatnonzero(tokens[:, :, None] == own[:, None, :])  # in one dimension it is much faster
        row, held, at = np.unravel_index(again, (count, tokens.shape[1], own.shape[1]))
        cells[row, held, place] = own_cells[row, at, place]
        own[row, at], own_cells[row, at] = _NO_TOKEN, NONE
        own[own == _NO_TOKEN] = NOTHING
        tokens, cells = np.concatenate((tokens, own), axis=1), np.concatenate((cells, own_cells), axis=1)
    return Candidates(tokens, cells, firsts)


class Judge(Protocol):
    """Says what candidates are worth."""

    def scores(self, found: Candidates, rows: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """The chance of every candidate, `NEVER` for none. (n, W)

        rows: of the candidates' places, among all of the step's. depth: of the nodes they follow. (n,) each
        """


class ByRates:
    """The best of the acceptance rates of a candidate's cells."""

    def __init__(self, rates: Rates) -> None:
        self._rates = [np.array([*own, NEVER]) for own in rates.values()]  # `NONE` is the last

    def scores(self, found: Candidates, rows: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """As `Judge` says."""
        best = self._rates[0][found.cells[..., 0]]
        for place, own in enumerate(self._rates[1:], start=1):
            np.maximum(best, own[found.cells[..., place]], out=best)
        return best


class ByScore:
    """The learned score."""

    def __init__(self, score: NodeScore, names: Sequence[str], hits: np.ndarray) -> None:
        """names: of the asked sources. hits: `recent_hits` of the score's sources where the steps begin. (n, S)"""
        self._score, self._names, self._of_depths = score, names, score.of_depths(hits)

    def scores(self, found: Candidates, rows: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """As `Judge` says."""
        score, is_one = self._score, found.is_one
        cells, firsts = scored_cells(found, self._names, score.sources)
        of_place = score.of_places(self._of_depths[rows, np.minimum(depth, MOST_DEPTH - 1)], firsts)
        values = np.full(is_one.shape, NEVER)
        own = cells[is_one]
        values[is_one] = score.chances(own, (own != NO_CELL).argmax(axis=1), of_place[np.nonzero(is_one)[0]])
        return values


def scored_cells(found: Candidates, names: Sequence[str], sources: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Cells of candidates, and of each source's first, as a score of some sources numbers them. (n, W, S), (n, S)

    names: of the asked sources, all of them among the score's.
    """
    starts, num_places = first_cells(sources), len(found.firsts)
    cells = np.full((*found.tokens.shape, len(sources)), NO_CELL)
    firsts = np.full((num_places, len(sources)), NO_CELL)
    for place, name in enumerate(names):
        column = sources.index(name)
        for target, own in ((cells, found.cells[..., place]), (firsts, found.firsts[..., place])):
            target[..., column] = np.where(own == NONE, NO_CELL, own + starts[name])
    return cells, firsts


def recent_hits(texts: Texts, names: Sequence[str], asked: Sequence[ArraySource], sources: Sequence[str]) -> np.ndarray:
    """Running means of `RecentHits` for steps that begin at every generated token of every text, watched from the
    second token on; what they begin with for sources that are not asked. (N, S), rows as `Texts.rows` says

    asked, names: the sources that are.
    """
    hits = np.full((int(texts.num_positions.sum()), len(sources)), START)
    text = np.repeat(np.arange(len(texts.num_positions)), texts.num_positions)
    start = np.arange(len(text)) - texts.rows(text, np.zeros_like(text))
    places = texts.places(text, start)
    for name, source in zip(names, asked, strict=True):
        tokens = source.propose(places)[0][:, 0]
        column, is_hit = sources.index(name), (tokens == texts.tokens[places.end]).astype(np.float64)
        for position in range(1, int(texts.num_positions.max(initial=0)) - 1):
            row = texts.rows(np.flatnonzero(texts.num_positions > position + 1), position)
            before = hits[row, column]
            hits[row + 1, column] = np.where(tokens[row] == NOTHING, before, after(before, is_hit[row]))
    return hits
