"""A layer call on the nodes of draft trees: each node stands at the position of its depth and sees its ancestors only.

Knows positions and lengths; knows nothing of models, and of trees only who is whose parent.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from specbound.decoding.model.ragged import RaggedCall, sent
from specbound.decoding.model.row_attention import TreeSight

# B rows of the call, n most new nodes of a row, K visible keys


class NodeRows:
    """Nodes of one tree as a cache holds them, one after another from its `start` on: their depths and ancestors."""

    def __init__(self, parents: Sequence[int]) -> None:
        """parents: of every node, as its place among them; -1 for the root, which stands first. (N,)"""
        count = len(parents)
        self.depths = [0] * count
        self.sees = np.zeros((count, count), dtype=bool)
        """Whether a node sees another: itself and its ancestors. (N, N)"""
        for node, parent in enumerate(parents):
            if parent >= 0:
                self.depths[node] = self.depths[parent] + 1
                self.sees[node] = self.sees[parent]
            self.sees[node, node] = True


class TreeCall(RaggedCall):
    """Rows of a cache that run some nodes of a tree each: those from `first` to `last` - 1 of its tree's order.

    The nodes before them are held by the cache already, from the row's `start` on.
    """

    def __init__(
        self,
        slots: Sequence[int],
        starts: Sequence[int],
        trees: Sequence[NodeRows],
        spans: Sequence[tuple[int, int]],
        device: torch.device | str = "cpu",
    ) -> None:
        """(B,) each. starts: positions of the roots. spans: first and last + 1 of the nodes that run."""
        places = [start + first for start, (first, _) in zip(starts, spans, strict=True)]
        super().__init__(slots, places, [last - first for first, last in spans], device)
        self._roots = list(starts)
        columns = range(self.num_new)
        positions = []
        for start, tree, (first, last) in zip(starts, trees, spans, strict=True):
            depths = tree.depths[first:last]
            positions.append([start + depths[min(i, len(depths) - 1)] for i in columns])
        self._host_positions = np.array(positions)
        self.positions = sent(self._host_positions, device)
        """Position of each node of the call. (B, n)"""
        self._trees, self._spans = trees, spans
        self._device = device

    @property
    def num_nodes(self) -> int:
        """Nodes of the first tree that the cache holds after the call, its root included."""
        return self._spans[0][1]

    def inputs(self, num_rows: int, num_nodes: int) -> np.ndarray:
        """The first tree's nodes of the call as numbers, for as many rows and nodes as a segment has: which of them a
        row is, its position and its place in the cache, the position of every node, and whether the row sees it. Rows
        and nodes that pad repeat the last one. (3 R + N + R N,) int64"""
        root, tree, (first, last) = self._roots[0], self._trees[0], self._spans[0]
        rows = np.minimum(np.arange(num_rows), last - first - 1)
        nodes = np.minimum(np.arange(num_nodes), last - 1)
        depths = np.array(tree.depths)
        sees = tree.sees[first + rows][:, nodes] & (np.arange(num_nodes) < last)
        parts = (rows, root + depths[first + rows], root + first + rows, root + depths[nodes], sees.ravel())
        return np.concatenate([part.astype(np.int64) for part in parts])

    @property
    def is_level(self) -> bool:
        """Never: nodes of a tree do not stand one after another."""
        return False

    def first_key(self, window: int | None) -> int:
        """The first place that a node of any row may see."""
        return 0 if window is None else max(0, min(self._roots) - window + 1)

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """Additive mask (B, 1, n, K) for the keys from `first_key` to `end`."""
        first_key = self.first_key(window)
        seen = np.zeros((len(self.slots), self.num_new, self.end - first_key), dtype=bool)
        for row, (start, tree, (first, last)) in enumerate(zip(self._roots, self._trees, self._spans, strict=True)):
            own = tree.sees[first:last, :last]
            count = last - first
            seen[row, :count, : start - first_key] = True
            seen[row, :count, start - first_key : start - first_key + last] = own
            if window is not None:
                self._hide_before_window(seen[row, :count], row, start, tree, first_key, window)
            seen[row, count:] = seen[row, count - 1]
        mask = torch.zeros(seen.shape, dtype=dtype)
        mask.masked_fill_(torch.from_numpy(~seen), torch.finfo(dtype).min)
        mask = sent(mask.unsqueeze(1), self._device)
        mask.tree_sights = self._sights(window)  # type: ignore[attr-defined]
        return mask

    def _sights(self, window: int | None) -> list[TreeSight]:
        """The same as places: what kernels that keep the bits of single rows read."""
        first_key = self.first_key(window)
        sights = []
        for start, tree, (first, last) in zip(self._roots, self._trees, self._spans, strict=True):
            paths = [np.flatnonzero(tree.sees[node]).tolist() for node in range(first, last)]
            oldest = [0 if window is None else start + len(path) - window for path in paths]
            sights.append(TreeSight(start - first_key, [max(0, key - first_key) for key in oldest], paths))
        return sights

    def _hide_before_window(
        self, seen: np.ndarray, row: int, start: int, tree: NodeRows, first_key: int, window: int
    ) -> None:
        """Hides from each node what stands further back than the window. seen: (nodes of the row, K)"""
        held = [*range(first_key, start), *(start + depth for depth in tree.depths)]
        keys = np.array(held)[: seen.shape[1]]
        oldest = self._host_positions[row, : len(seen), None] - window
        seen[:, : len(keys)] &= keys[None] > oldest
