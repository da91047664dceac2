"""The learned score of tree nodes: the calibrated chance that a candidate is right, given that its parent is.

A perceptron on `node_features`. Most of its inputs are flags, so what the first layer makes of each cell is looked up
in a table: a node costs a few additions. Every sum runs in the same order for one place and for many, so that decoding
and replay come to the same bits. Knows no model and no prices.
"""

# S sources, C cells of all sources, H hidden units, K candidates, n places

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from specbound_controller.mlp import Mlp, sigmoid
from specbound_controller.trees.node_features import (
    MOST_DEPTH,
    SCORED_SOURCES,
    cell_features,
    depth_features,
    first_cells,
    input_names,
)


@dataclass(frozen=True, slots=True, eq=False)
class NodeScore:
    """The perceptron, calibrated for each source; immutable."""

    mlp: Mlp
    """(I,) -> 1 logit, on the inputs of `node_features.input_names`."""
    sources: tuple[str, ...]
    """Sources whose candidates it knows, in the order in which they are asked. (S,)"""
    slopes: tuple[float, ...]
    """Calibration: slope on the logit, by the first source that proposes a candidate. (S,)"""
    offsets: tuple[float, ...]
    """Calibration: offset added after it. (S,)"""
    starts: dict[str, int] = field(init=False)
    """Where the cells of each source begin."""
    _of_cells: np.ndarray = field(init=False)
    _of_firsts: np.ndarray = field(init=False)
    _of_depths: np.ndarray = field(init=False)
    _of_recent: np.ndarray = field(init=False)
    _weight2: np.ndarray = field(init=False)
    _slopes: np.ndarray = field(init=False)
    _offsets: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        order = [SCORED_SOURCES.index(source) for source in self.sources if source in SCORED_SOURCES]
        if not order or order != sorted(set(order)) or len(order) != len(self.sources):
            raise ValueError(f"sources must be some of {', '.join(SCORED_SOURCES)}, in this order, got {self.sources}")
        if len(self.slopes) != len(order) or len(self.offsets) != len(order):
            raise ValueError(f"slopes and offsets must have {len(order)} values, one for each source")
        num_inputs = len(input_names(self.sources))
        if self.mlp.num_inputs != num_inputs or self.mlp.num_outputs != 1:
            raise ValueError(
                f"the node score must map {num_inputs} inputs to 1, got {self.mlp.num_inputs} to {self.mlp.num_outputs}"
            )
        features, weight1 = cell_features(self.sources), self.mlp.weight1.T
        width = features.shape[1]
        tables = {
            "starts": first_cells(self.sources),
            "_of_cells": features @ weight1[:width],
            "_of_firsts": features @ weight1[width : 2 * width],
            "_of_depths": depth_features() @ weight1[2 * width : 2 * width + 2] + self.mlp.bias1,
            "_of_recent": np.ascontiguousarray(weight1[2 * width + 2 :]),
            "_weight2": self.mlp.weight2[0],
            "_slopes": np.array(self.slopes),
            "_offsets": np.array(self.slopes) * float(self.mlp.bias2[0]) + np.array(self.offsets),
        }
        for name, value in tables.items():
            object.__setattr__(self, name, value)

    def __deepcopy__(self, memo: dict[int, object]) -> "NodeScore":
        """Itself: nothing of it changes."""
        return self

    def of_depths(self, recent: Sequence[float] | np.ndarray) -> np.ndarray:
        """What a parent's depth and the sources' recent hits add. recent: (S,) or (n, S) -> (..., MOST_DEPTH, H)"""
        means = np.asarray(recent, dtype=np.float32)
        found = self._of_depths
        for place in range(len(self.sources)):
            found = found + (means[..., place, None] * self._of_recent[place])[..., None, :]
        return found

    def of_places(self, of_depth: np.ndarray, firsts: np.ndarray) -> np.ndarray:
        """What is the same for all children of a node. of_depth: (n, H); firsts: cells, (n, S) -> (n, H)"""
        found: np.ndarray = np.add.reduce(self._of_firsts.take(firsts, axis=0), axis=1)
        found += of_depth
        return found

    def chances(self, cells: np.ndarray, source: np.ndarray, of_place: np.ndarray) -> np.ndarray:
        """Of candidates, each proposed by at least one source. (K,) float64

        Args:
            cells: of every source. (K, S)
            source: the first that proposes each. (K,)
            of_place: (K, H), or (1, H) where all follow one node.
        """
        hidden: np.ndarray = np.add.reduce(self._of_cells.take(cells, axis=0), axis=1)
        hidden += of_place
        np.maximum(hidden, 0.0, out=hidden)
        hidden *= self._weight2
        logits = self._slopes.take(source) * np.add.reduce(hidden, axis=1)
        logits += self._offsets.take(source)
        return sigmoid(logits)


def depth_row(depth: int) -> int:
    """The row of `of_depths` for a parent at a depth."""
    return min(depth, MOST_DEPTH - 1)
