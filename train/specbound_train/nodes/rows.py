"""Rows that the score of tree nodes is fitted on: what every source proposes along the true text, and what was right.

A row is a candidate after a path of true tokens that begins where a step may begin: sources know what was committed
there, as in a tree. Knows no network.
"""

# K candidates, S sources, n places

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from specbound_controller.sources.stores import Stores
from specbound_controller.trees.node_features import MOST_DEPTH, NO_CELL, node_inputs, ranks
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.replay.candidate_arrays import candidates, recent_hits, scored_cells
from specbound_profiling.replay.source_arrays import Places, Texts

MOST_PLACES = 12_000
"""Most places of the text whose candidates are rows; a random choice of more."""
MOST_TRIED = 3
"""Candidates after one path that trees try, mostly."""


@dataclass(frozen=True, slots=True, eq=False)
class NodeRows:
    """Candidates of all depths."""

    cells: np.ndarray
    """Of every source, `NO_CELL` where it does not propose the candidate. (K, S)"""
    firsts: np.ndarray
    """Of the first candidate of every source at the same place. (K, S)"""
    depth: np.ndarray
    """Of the node that it follows. (K,)"""
    recent: np.ndarray
    """`RecentHits` of every source when the step began. (K, S)"""
    is_right: np.ndarray
    """(K,) bool"""
    trace: np.ndarray
    """Which of the traces. (K,)"""
    place: np.ndarray
    """A number that candidates after the same path share. (K,)"""

    def __len__(self) -> int:
        return len(self.is_right)

    def inputs(self, sources: Sequence[str]) -> np.ndarray:
        """Of the network. (K, I) float32"""
        return node_inputs(sources, self.cells, self.firsts, self.depth, self.recent)

    @property
    def source(self) -> np.ndarray:
        """The first source that proposes each. (K,)"""
        found: np.ndarray = (self.cells != NO_CELL).argmax(axis=1)
        return found

    def rank(self, sources: Sequence[str]) -> np.ndarray:
        """Its rank there. (K,)"""
        found: np.ndarray = ranks(sources)[self.cells[np.arange(len(self)), self.source]]
        return found

    def tried_first(self, logits: np.ndarray) -> np.ndarray:
        """Those that a tree would try: the `MOST_TRIED` best after each path. logits: (K,) -> (K,) bool"""
        order = np.lexsort((-logits, self.place))
        place = self.place[order]
        begins = np.searchsorted(place, place)
        found = np.zeros(len(self), dtype=bool)
        found[order[np.arange(len(self)) - begins < MOST_TRIED]] = True
        return found

    def by_rates(self, sources: Sequence[str], rates: Mapping[str, Sequence[float]]) -> np.ndarray:
        """The best rate of each candidate's cells. (K,)"""
        flat = np.array([0.0, *(rate for source in sources for rate in rates[source])])
        found: np.ndarray = flat[self.cells].max(axis=1)
        return found


def node_rows(traces: Sequence[PromptTrace], stores: Stores, sources: Sequence[str], seed: int) -> NodeRows:
    """Candidates at every place, or `MOST_PLACES` random ones, at all depths that a path of proposed tokens reaches.

    A depth is left where no source proposes the true token: no tree has a right node there.
    """
    texts = Texts(traces)
    asked = [texts.source(name, stores) for name in sources]
    hits = recent_hits(texts, sources, asked, sources)
    lengths = texts.num_positions
    text = np.repeat(np.arange(len(lengths)), lengths)
    start = np.arange(len(text)) - texts.rows(text, 0)
    chosen = np.flatnonzero(start >= 1)
    if len(chosen) > MOST_PLACES:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, MOST_PLACES, replace=False))
    text, start, hits = text[chosen], start[chosen], hits[chosen]
    parts = []
    for depth in range(MOST_DEPTH):
        root = texts.places(text, start)
        end = root.end + depth
        found = candidates(Places(text, start, root.end, texts.before(end, text)), asked)
        cells, firsts = scored_cells(found, sources, sources)
        is_right = found.tokens == texts.tokens[end][:, None]
        place, column = np.nonzero(found.is_one)
        values = (cells[place, column], firsts[place], np.full(len(place), depth), hits[place])
        parts.append(NodeRows(*values, is_right[place, column], text[place], place))
        goes_on = is_right.any(axis=1) & (start + depth + 1 < lengths[text])
        text, start, hits = text[goes_on], start[goes_on], hits[goes_on]
        if not len(text):
            break
    return concatenated(parts)


def concatenated(parts: Sequence[NodeRows]) -> NodeRows:
    """All rows of some parts. `trace` is as it was in each; places of different parts stay different."""
    ends = np.cumsum([0, *(int(part.place.max(initial=-1)) + 1 for part in parts)])
    own = [replace(part, place=part.place + end) for part, end in zip(parts, ends[:-1], strict=True)]
    return NodeRows(*(np.concatenate([getattr(part, field.name) for part in own]) for field in fields(NodeRows)))
