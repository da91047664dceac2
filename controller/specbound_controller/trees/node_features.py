"""What the learned score of a tree node reads, free of prices: what every source says of the candidate's token, what
each source's first candidate is, how deep the node stands, and how often each source was right lately.

One definition for single nodes (decoding) and for arrays of them (training, replay). Knows no network.
"""

# S sources, C cells of all sources, K candidates, n places, F features of a source, I inputs

import math
from collections.abc import Sequence

import numpy as np

from specbound_controller.sources import context, own_text
from specbound_controller.sources.source import MOST_CANDIDATES

SCORED_SOURCES = ("context", "own_text", "recycled", "bigrams")
"""Sources whose candidates can be scored, in the order in which they are asked."""
MOST_DEPTH = 16
"""Depths that are told apart: what stands deeper counts as the last."""
NO_CELL = 0
"""In place of a cell where a source does not propose a token."""


def _flags(index: int, count: int) -> list[float]:
    return [float(index == each) for each in range(count)]


def _context_cells() -> list[list[float]]:
    rows: list[list[float]] = [[] for _ in context.CELLS]
    for (match, rank, is_repeated), cell in context.CELLS.items():
        place = context.MATCHES.index(match)
        rows[cell] = [*_flags(place, len(context.MATCHES)), *_flags(rank, context.RANKS), float(is_repeated)]
    return rows


def _own_text_cells() -> list[list[float]]:
    rows: list[list[float]] = [[] for _ in own_text.CELLS]
    for (order, rank, bucket), cell in own_text.CELLS.items():
        place = own_text.ORDERS.index(order)
        counts = _flags(bucket, len(own_text.COUNT_BUCKETS))
        rows[cell] = [*_flags(place, len(own_text.ORDERS)), *_flags(rank, own_text.RANKS), *counts]
    return rows


def _ranks() -> list[list[float]]:
    return [_flags(rank, MOST_CANDIDATES) for rank in range(MOST_CANDIDATES)]


_CELLS = {"context": _context_cells(), "own_text": _own_text_cells(), "recycled": _ranks(), "bigrams": _ranks()}
_NAMES = {
    "context": (
        *(f"match{match}" for match in context.MATCHES),
        *(f"rank{rank}" for rank in range(context.RANKS)),
        "repeated",
    ),
    "own_text": (
        *(f"order{order}" for order in own_text.ORDERS),
        *(f"rank{rank}" for rank in range(own_text.RANKS)),
        *(f"count{least}" for least in own_text.COUNT_BUCKETS),
    ),
    "recycled": tuple(f"rank{rank}" for rank in range(MOST_CANDIDATES)),
    "bigrams": tuple(f"rank{rank}" for rank in range(MOST_CANDIDATES)),
}


def input_names(sources: Sequence[str]) -> tuple[str, ...]:
    """Names of the inputs of a score of these sources. (I,)"""
    own = [f"{source}_{name}" for source in sources for name in _NAMES[source]]
    return (*own, *(f"first_{name}" for name in own), "depth", "log_depth", *(f"recent_{name}" for name in sources))


def first_cells(sources: Sequence[str]) -> dict[str, int]:
    """Where the cells of each source begin among those of all; `NO_CELL` stands before them."""
    found, start = {}, NO_CELL + 1
    for source in sources:
        found[source] = start
        start += len(_CELLS[source])
    return found


def ranks(sources: Sequence[str]) -> np.ndarray:
    """Rank of every cell, -1 for `NO_CELL`. (C + 1,) int64"""
    found = [-1]
    for source in sources:
        at = [place for place, name in enumerate(_NAMES[source]) if name.startswith("rank")]
        found += [int(np.argmax([row[place] for place in at])) for row in _CELLS[source]]
    return np.array(found)


def cell_features(sources: Sequence[str]) -> np.ndarray:
    """What every cell says, the features of each source in columns of their own; zeros for `NO_CELL`. (C + 1, sum F)"""
    widths = [len(_NAMES[source]) for source in sources]
    table = np.zeros((1 + sum(len(_CELLS[source]) for source in sources), sum(widths)), dtype=np.float32)
    starts = first_cells(sources)
    for place, source in enumerate(sources):
        column, rows = sum(widths[:place]), np.array(_CELLS[source], dtype=np.float32)
        table[starts[source] : starts[source] + len(rows), column : column + widths[place]] = rows
    return table


def depth_features() -> np.ndarray:
    """What every depth of a parent says, 0 for the root. (MOST_DEPTH, 2)"""
    return np.array([[depth, math.log1p(depth)] for depth in range(MOST_DEPTH)], dtype=np.float32)


def node_inputs(
    sources: Sequence[str], cells: np.ndarray, firsts: np.ndarray, depth: np.ndarray, recent: np.ndarray
) -> np.ndarray:
    """Inputs of the score's network, in the order of `input_names`. (K, I) float32

    Args:
        cells: of each source, of the candidate, `NO_CELL` where it does not propose it. (K, S)
        firsts: of each source's first candidate after the same parent. (K, S)
        depth: of the parent. (K,)
        recent: running means of `RecentHits` when the step began. (K, S)
    """
    table = cell_features(sources)
    own, first = (sum(table[index[:, place]] for place in range(len(sources))) for index in (cells, firsts))
    of_depth = depth_features()[np.minimum(depth, MOST_DEPTH - 1)]
    return np.concatenate((own, first, of_depth, recent), axis=1, dtype=np.float32)
