"""Keys and values at addresses that stay, for layers that run as segments: attention sees buckets of keys under a mask.

Knows caches; nothing of layers and graphs.
"""

import weakref

import torch
from torch import Tensor

from specbound.decoding.model.cache import PreallocatedLayer

# R rows of a segment, N nodes of a bucket, H key-value heads, C capacity in tokens, K keys of a bucket, D head width


class StaticBuffers:
    """Keys and values (1, H, C, D) at addresses that stay, lent to one cache at a time, layer by layer."""

    def __init__(self, num_layers: int, capacity: int) -> None:
        self.capacity = capacity
        self._held: list[tuple[Tensor, Tensor] | None] = [None] * num_layers
        self._holders: list[weakref.ref[PreallocatedLayer] | None] = [None] * num_layers

    def lend(self, index: int, layer: PreallocatedLayer) -> None:
        """Moves a layer of a cache of one sequence here; the one that was here before takes a copy with it."""
        held = self._held[index]
        if held is None:  # zeros: a mask cannot hide the NaN that stale memory may hold
            shape = (1, layer.keys.shape[1], self.capacity)
            with torch.inference_mode(False):  # they may end in a cache that is handed on
                keys, values = (
                    torch.zeros(*shape, each.shape[3], dtype=each.dtype, device=each.device)
                    for each in (layer.keys, layer.values)
                )
            held = self._held[index] = keys, values
        if layer.keys is held[0]:
            return
        reference = self._holders[index]
        holder = reference() if reference is not None else None
        if holder is not None and holder.keys is held[0]:
            with torch.inference_mode(False):
                holder.keys, holder.values = held[0].clone(), held[1].clone()
        length = layer.lengths[0]
        held[0][:, :, :length] = layer.keys[:, :, :length]
        held[1][:, :, :length] = layer.values[:, :, :length]
        layer.keys, layer.values = held
        layer.capacity = self.capacity
        self._holders[index] = weakref.ref(layer)

    def of(self, index: int) -> tuple[Tensor, Tensor]:
        """The keys and values of a layer that has been lent, (1, H, C, D) each."""
        held = self._held[index]
        assert held is not None, index
        return held


class StaticView:
    """What the layers of a segment take for a cache: tokens go to places that only the device knows."""

    def __init__(self, buffers: StaticBuffers, positions: Tensor, num_keys: int) -> None:
        """positions: (R,) int64 of the tokens of the call. num_keys: how many keys of the buffers they see."""
        self.buffers, self.positions, self.num_keys = buffers, positions, num_keys

    @property
    def places(self) -> Tensor:
        """Where in the buffers each token of the call goes. (R,) int64"""
        return self.positions

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Writes the new tokens; returns all keys and values of the bucket. (1, H, R, D) -> (1, H, K, D)"""
        keys, values = self.buffers.of(layer_idx)
        keys.index_copy_(2, self.places, key_states)
        values.index_copy_(2, self.places, value_states)
        return keys.narrow(2, 0, self.num_keys), values.narrow(2, 0, self.num_keys)

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """Additive mask of the tokens of the call. (1, 1, R, K)"""
        hidden = self.hidden(window)
        mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
        return mask.masked_fill(hidden, torch.finfo(dtype).min)[None, None]

    def hidden(self, window: int | None) -> Tensor:
        """Which keys each token does not see. (R, K) bool"""
        keys = torch.arange(self.num_keys, device=self.positions.device)
        queries = self.positions.unsqueeze(1)
        hidden = keys > queries
        return hidden if window is None else hidden | (keys <= queries - window)


class TreeView(StaticView):
    """The same for nodes of a tree: they go one after another, stand at the position of their depth, and see their
    ancestors and all before the root."""

    def __init__(
        self,
        buffers: StaticBuffers,
        positions: Tensor,
        places: Tensor,
        node_positions: Tensor,
        sees: Tensor,
        num_keys: int,
    ) -> None:
        """Args:
        positions, places: of the nodes of the call. (R,) int64
        node_positions: of all nodes of the tree, the root's first. (N,) int64
        sees: whether each node of the call sees a node of the tree. (R, N) bool
        """
        super().__init__(buffers, positions, num_keys)
        self._places, self._node_positions, self._sees = places, node_positions, sees

    @property
    def places(self) -> Tensor:
        return self._places

    def hidden(self, window: int | None) -> Tensor:
        root, num_nodes = self._node_positions[:1], self._node_positions.shape[0]
        keys = torch.arange(self.num_keys, device=root.device)
        nodes = keys - root
        known = nodes.clamp(0, num_nodes - 1)
        seen = self._sees.index_select(1, known) & (nodes < num_nodes)
        hidden = ~(seen | (nodes < 0))
        if window is None:
            return hidden
        held = torch.where(nodes < 0, keys, self._node_positions.index_select(0, known))
        return hidden | (held <= self.positions.unsqueeze(1) - window)
