"""The decoder's own key-value cache: preallocated, a length per layer and row, rollback is a counter.

Knows nothing of drafts; the adapter writes to it by running layers, the decoder truncates it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

from specbound_controller.errors import InputError

# B rows (sequences), H key-value heads, C capacity in tokens, D head width, n new tokens


class PreallocatedLayer(CacheLayerMixin):
    """Keys and values of one layer: buffers (B, H, C, D) that double when full, and a length per row.

    With a sliding window only the keys that the new queries may see are handed out; the buffer keeps all of them,
    so that a rollback past the window is a counter as well.
    """

    is_sliding = False

    def __init__(self, capacity: int, batch_size: int, window: int | None = None) -> None:
        super().__init__()
        self.capacity = capacity
        self.window = window
        self.lengths = [0] * batch_size

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        batch_size, heads, _, width = key_states.shape
        self.keys = key_states.new_empty(batch_size, heads, self.capacity, width)
        self.values = value_states.new_empty(batch_size, value_states.shape[1], self.capacity, value_states.shape[3])
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Appends n tokens to every row and returns the keys and values that the n queries may see.

        key_states, value_states: (B, H, n, D). Returns views of the buffers, (B, H, max length, D).
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        num_new = key_states.shape[2]
        end = max(self.lengths) + num_new
        if end > self.capacity:
            self._grow(end)
        if len(set(self.lengths)) == 1:
            start = self.lengths[0]
            self.keys[:, :, start:end] = key_states
            self.values[:, :, start:end] = value_states
        else:
            for row, start in enumerate(self.lengths):
                self.keys[row, :, start : start + num_new] = key_states[row]
                self.values[row, :, start : start + num_new] = value_states[row]
        self.lengths = [length + num_new for length in self.lengths]
        first = end - visible_keys(end - num_new, num_new, self.window)
        return self.keys[:, :, first:end], self.values[:, :, first:end]

    def _grow(self, needed: int) -> None:
        while self.capacity < needed:
            self.capacity *= 2
        used = max(self.lengths)
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_empty(*old.shape[:2], self.capacity, old.shape[3])
            new[:, :, :used] = old[:, :, :used]
            setattr(self, name, new)

    def truncate(self, row: int, length: int) -> None:
        """Forgets the tokens of one row from `length` on."""
        if length > self.lengths[row]:
            raise ValueError(f"length must be <= {self.lengths[row]} (row {row}), got {length}")
        self.lengths[row] = length

    def get_seq_length(self) -> int:
        return max(self.lengths)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        length = self.get_seq_length()
        visible = visible_keys(length, query_length, self.window)
        return visible, length + query_length - visible

    def get_max_length(self) -> int:
        return -1


def visible_keys(past: int, num_new: int, window: int | None) -> int:
    """Keys that any of `num_new` queries after `past` tokens may see, themselves included."""
    return past + num_new if window is None else min(past, window - 1) + num_new


class DecodeCache(Cache):
    """One `PreallocatedLayer` per decoder layer."""

    layers: list[PreallocatedLayer]

    def __init__(
        self, windows: list[int | None], capacity: int = 256, batch_size: int = 1, owner: object | None = None
    ) -> None:
        """An empty cache.

        windows: the sliding window of each layer, None for full attention.
        capacity: tokens, doubles when full.
        owner: the layers whose keys and values it holds; another model's cache is recognised by it.
        """
        super().__init__(layers=[PreallocatedLayer(capacity, batch_size, window) for window in windows])
        self.owner = owner
        self.tokens: list[int] = []
        """The tokens of the only row, where a finished generation left them for the next one to continue from."""

    def keep_prefix_of(self, prompt: Sequence[int]) -> None:
        """Rolls back to the longest prefix of the prompt that is held already, its last token left out."""
        both = zip(self.tokens, prompt[:-1], strict=False)
        held = next((i for i, (a, b) in enumerate(both) if a != b), min(len(self.tokens), len(prompt) - 1))
        self.truncate(held)
        self.tokens = self.tokens[:held]

    def fill_from(self, cache: DynamicCache) -> None:
        """Copies the keys and values of one sequence; every layer must hold all its tokens."""
        for layer, source in zip(self.layers, cache.layers, strict=True):
            keys, values = source.keys, source.values
            if keys.shape[0] != 1 or keys.shape[2] != cache.get_seq_length():
                raise InputError(
                    f"past_key_values must hold all {cache.get_seq_length()} tokens of one sequence in every layer, "
                    f"got keys of shape {tuple(keys.shape)}: continue from this decoder's own cache"
                )
            layer.update(keys, values)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        return self.layers[layer_idx].update(key_states, value_states)

    def truncate(self, length: int, row: int = 0) -> None:
        """Rolls every layer of one row back to `length` tokens."""
        for layer in self.layers:
            layer.truncate(row, length)

    def lengths(self, row: int = 0) -> list[int]:
        """Tokens that each layer holds for one row. (L,)"""
        return [layer.lengths[row] for layer in self.layers]


def causal_mask(rows: int, columns: int, window: int | None, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Additive attention mask of n queries whose own keys are the last n columns. (rows, columns)

    A view of its last k columns is the mask for k visible keys, so one table serves every context length.
    """
    query = torch.arange(rows, device=device).unsqueeze(1)
    key = torch.arange(columns, device=device).unsqueeze(0) - (columns - rows)
    allowed = key <= query
    if window is not None:
        allowed &= key > query - window
    mask = torch.zeros(rows, columns, dtype=dtype, device=device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)
