"""The decoder's own key-value cache: preallocated, a length per layer and row, rollback is a counter.

Knows nothing of drafts; the adapter writes to it by running layers, the decoder truncates it.
"""

import copy
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, CacheLayerMixin

from specbound.decoding.model.ragged import RaggedCall
from specbound_controller.errors import InputError

# B rows (sequences), H key-value heads, C capacity in tokens, D head width, n new tokens, K visible keys


MARK_NUMBERS = 8
"""Of a parameter, that a file remembers."""


class KeyValueStore(Protocol):
    """What a layer needs of a cache."""

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Adds (B, H, n, D) of the new tokens; returns what they may see, (B, H, K, D) each."""


class PreallocatedLayer(CacheLayerMixin):
    """Keys and values of one layer: buffers (B, H, C, D) that double when full, and a length per row.

    With a sliding window only the keys that the new queries may see are handed out; the buffer keeps all of them,
    so that a rollback past the window is a counter as well.
    """

    is_croppable = True

    def __init__(self, capacity: int, batch_size: int, window: int | None = None) -> None:
        super().__init__()
        self.is_sliding = window is not None
        self.capacity = capacity
        self.window = window
        self.lengths = [0] * batch_size
        self.most_tokens: int | None = None
        """Of any row, as far as is known: no more room than that is made."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = self._new_buffer(key_states, len(self.lengths))
        self.values = self._new_buffer(value_states, len(self.lengths))
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Appends n tokens to every row, all of one length, and returns the keys and values that the n queries may see.

        key_states, value_states: (B, H, n, D). Returns views of the buffers, (B, H, K, D).
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        num_new = key_states.shape[2]
        start = self.lengths[0]
        assert self.lengths.count(start) == len(self.lengths), self.lengths
        end = start + num_new
        if end > self.capacity:
            self._grow(end)
        if torch.is_grad_enabled() and (key_states.requires_grad or self.keys.requires_grad):
            self._grow(self.capacity)  # a gradient needs the buffers of every call as they were
        self.keys.narrow(2, start, num_new).copy_(key_states)  # cheaper than an index, in every layer of every step
        self.values.narrow(2, start, num_new).copy_(value_states)
        self.lengths = [end] * len(self.lengths)
        visible = visible_keys(start, num_new, self.window)
        return self.keys.narrow(2, end - visible, visible), self.values.narrow(2, end - visible, visible)

    def update_rows(self, key_states: Tensor, value_states: Tensor, call: RaggedCall) -> tuple[Tensor, Tensor]:
        """Appends to the rows of a call and returns the keys and values that its queries may see.

        key_states, value_states: (rows of the call, H, n, D). Returns (rows of the call, H, K, D).
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if call.end > self.capacity:
            self._grow(call.end)
        call.write(self.keys, key_states)
        call.write(self.values, value_states)
        for slot, start, count in zip(call.slots, call.starts, call.counts, strict=True):
            assert self.lengths[slot] == start, (slot, self.lengths[slot], start)
            self.lengths[slot] = start + count
        return call.read(self.keys, self.window), call.read(self.values, self.window)

    def join(self, layers: Sequence["PreallocatedLayer"]) -> None:
        """Takes over the rows of some layers, one layer's after another's; the layers are empty afterwards."""
        self.lengths = [length for layer in layers for length in layer.lengths]
        self.capacity = self._needed(max(layer.capacity for layer in layers))
        self.lazy_initialization(layers[0].keys, layers[0].values)
        first = 0
        for layer in layers:
            rows, held = slice(first, first + len(layer.lengths)), slice(0, max(layer.lengths))
            self.keys[rows, :, held], self.values[rows, :, held] = layer.keys[:, :, held], layer.values[:, :, held]
            first = rows.stop
            layer.keys = layer.values = layer.keys.new_empty(0)
            layer.is_initialized, layer.lengths = False, [0]

    def take_copy(self, layer: "PreallocatedLayer", row: int, length: int) -> None:
        """Holds a copy of the first tokens of one row of another layer, and nothing else."""
        self.capacity, self.lengths = max(1, length), [length]
        self.lazy_initialization(layer.keys, layer.values)
        self.keys[0, :, :length], self.values[0, :, :length] = (
            layer.keys[row, :, :length],
            layer.values[row, :, :length],
        )

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Drops all rows but these, with their memory."""
        self.lengths = [self.lengths[row] for row in rows]
        self.capacity = self._needed(self.capacity)
        used = max(self.lengths)
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = self._new_buffer(old, len(rows))
            for row, source in enumerate(rows):
                new[row, :, :used] = old[source, :, :used]
            setattr(self, name, new)

    def _grow(self, needed: int) -> None:
        """New buffers with room for so many tokens."""
        while self.capacity < needed:
            self.capacity *= 2
        self.capacity = max(needed, self._needed(self.capacity))
        used = max(self.lengths)
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = self._new_buffer(old, old.shape[0])
            new[:, :, :used] = old[:, :, :used]
            setattr(self, name, new)

    def _needed(self, capacity: int) -> int:
        """A capacity, without what no row will need."""
        return capacity if self.most_tokens is None else min(capacity, max(self.most_tokens, *self.lengths))

    def _new_buffer(self, like: Tensor, batch_size: int) -> Tensor:
        """(batch_size, H, C, D). Zeros for several rows: a mask cannot hide the NaN that stale memory may hold.

        Never an inference tensor: whoever gets the cache may write to it outside of `torch.inference_mode`.
        """
        shape = (batch_size, like.shape[1], self.capacity, like.shape[3])
        with torch.inference_mode(False):
            new = torch.empty if batch_size == 1 else torch.zeros
            return new(shape, dtype=like.dtype, device=like.device)

    def truncate(self, row: int, length: int) -> None:
        """Forgets the tokens of one row from `length` on."""
        if length > self.lengths[row]:
            raise ValueError(f"length must be <= {self.lengths[row]} (row {row}), got {length}")
        self.lengths[row] = length

    def keep_path(self, row: int, start: int, places: Sequence[int]) -> None:
        """Of the tokens from `start` on keeps those at these places, which ascend, one after another."""
        held = next((i for i, place in enumerate(places) if place != i), len(places))
        if held < len(places):
            target = slice(start + held, start + len(places))
            for buffer in (self.keys, self.values):
                moved = [buffer[row, :, start + place] for place in places[held:]]
                buffer[row, :, target] = torch.stack(moved, dim=1)
        self.truncate(row, start + len(places))

    def reset(self) -> None:
        """Forgets all tokens."""
        self.lengths = [0] * len(self.lengths)

    def crop(self, tokens_to_remove: int) -> None:
        """Forgets the last tokens of every row; a number below zero, as in transformers."""
        if tokens_to_remove > 0:
            raise ValueError(f"tokens_to_remove must be <= 0, got {tokens_to_remove}")
        self.lengths = [max(0, length + tokens_to_remove) for length in self.lengths]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row so many times, side by side."""
        self.batch_select_indices(torch.arange(len(self.lengths)).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """These rows, in this order."""
        rows = torch.arange(len(self.lengths))[indices.cpu()].tolist()
        if self.is_initialized:
            self.keep_rows(rows)
        else:
            self.lengths = [self.lengths[row] for row in rows]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """The same, by another name."""
        self.batch_select_indices(beam_idx)

    def detach(self) -> None:
        """Leaves a graph of gradients that a forward pass of the model has drawn the buffers into."""
        if self.is_initialized and (self.keys.requires_grad or self.values.requires_grad):
            self.keys, self.values = self.keys.detach(), self.values.detach()

    def get_seq_length(self) -> int:
        return max(self.lengths)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        length = self.get_seq_length()
        visible = visible_keys(length, query_length, self.window)
        return visible, length + query_length - visible

    def get_max_length(self) -> int:
        return -1


def mark_of(owner: object) -> tuple[float, ...]:
    """A few numbers of layers, by which a cache in a file knows them again; none of layers that are elsewhere."""
    if not isinstance(owner, nn.Module):
        return ()
    parameters = [parameter for parameter in owner.parameters() if not parameter.is_meta]
    ends = (parameter.detach().flatten()[:MARK_NUMBERS] for parameter in (parameters[:1] + parameters[-1:]))
    return tuple(number for numbers in ends for number in numbers.double().tolist())


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
        """None where the cache comes out of a file."""
        self.mark: tuple[float, ...] = ()
        """What a file says of the owner."""
        self.call: RaggedCall | None = None
        """The rows that layers append to while a ragged call runs; None appends to all rows, of one length."""
        self.tokens: list[int] = []
        """The tokens of the only row, where a finished generation left them for the next one to continue from."""

    @property
    def batch_size(self) -> int:
        """Rows."""
        return len(self.layers[0].lengths)

    @classmethod
    def joined(cls, caches: Sequence["DecodeCache"], most_tokens: int | None = None) -> "DecodeCache":
        """One cache with the rows of some caches, which are empty afterwards. Rows may differ in length.

        most_tokens: as for `expect`.
        """
        first, num_rows = caches[0], sum(each.batch_size for each in caches)
        cache = cls([layer.window for layer in first.layers], batch_size=num_rows, owner=first.owner)
        cache.expect(most_tokens)
        for index, layer in enumerate(cache.layers):
            layer.join([source.layers[index] for source in caches])
        return cache

    def expect(self, most_tokens: int | None) -> None:
        """No row is to hold more tokens, as far as is known: buffers that are made from here on are not larger."""
        for layer in self.layers:
            layer.most_tokens = most_tokens

    def copy_of_row(self, tokens: Sequence[int], row: int = 0) -> "DecodeCache":
        """A cache of its own with the first tokens of a row, without room for more.

        tokens: their names, at most as many as every layer holds.
        """
        cache = type(self)([layer.window for layer in self.layers], owner=self.owner)
        for own, layer in zip(cache.layers, self.layers, strict=True):
            own.take_copy(layer, row, len(tokens))
        cache.tokens = list(tokens)
        return cache

    @property
    def num_bytes(self) -> int:
        """Memory of all buffers."""
        buffers = (each for layer in self.layers if layer.is_initialized for each in (layer.keys, layer.values))
        return sum(buffer.numel() * buffer.element_size() for buffer in buffers)

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Drops all rows but these, which are numbered anew in this order."""
        for layer in self.layers:
            layer.keep_rows(rows)

    def __deepcopy__(self, memo: dict[int, Any]) -> "DecodeCache":
        """A cache of its own, of the same owner."""
        copied = type(self).__new__(type(self))
        memo[id(self)], memo[id(self.owner)] = copied, self.owner
        for layer in self.layers:
            layer.detach()
        for name, value in vars(self).items():
            setattr(copied, name, copy.deepcopy(value, memo))
        return copied

    def __getstate__(self) -> dict[str, Any]:
        """What a file holds: not the model's layers."""
        return {**vars(self), "owner": None, "mark": mark_of(self.owner) or self.mark}

    def is_of(self, owner: nn.Module) -> bool:
        """Whether keys and values are those of some layers, as far as it can be told."""
        return self.owner is owner if self.owner is not None else self.mark == mark_of(owner)

    def reset(self) -> None:
        super().reset()
        self.tokens = []

    def crop(self, tokens_to_remove: int) -> None:
        super().crop(tokens_to_remove)
        self._forget_tokens()

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._forget_tokens()

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._forget_tokens()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)
        self._forget_tokens()

    def _forget_tokens(self) -> None:
        """Drops the names of tokens that layers do not hold any more; what comes next may be others."""
        self.tokens = self.tokens[: min(self.lengths())] if self.batch_size == 1 else []

    def keep_prefix_of(self, prompt: Sequence[int]) -> None:
        """Rolls back to the longest prefix of the prompt that is held already, its last token left out."""
        for layer in self.layers:
            layer.detach()
        both = zip(self.tokens, prompt[:-1], strict=False)
        held = next((i for i, (a, b) in enumerate(both) if a != b), min(len(self.tokens), len(prompt) - 1))
        self.truncate(held)
        self.tokens = self.tokens[:held]

    def append_to(self, cache: Cache, held: int) -> None:
        """Gives another cache of one sequence what it does not hold yet. held: its tokens, the same as here."""
        with torch.inference_mode(False), torch.no_grad():
            for index, layer in enumerate(self.layers):
                new = slice(held, layer.lengths[0])
                cache.update(layer.keys[:, :, new].clone(), layer.values[:, :, new].clone(), index)

    def fill_from(self, cache: Cache) -> None:
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
        if self.call is not None:
            return self.layers[layer_idx].update_rows(key_states, value_states, self.call)
        return self.layers[layer_idx].update(key_states, value_states)

    def truncate(self, length: int, row: int = 0) -> None:
        """Rolls every layer of one row back to `length` tokens."""
        for layer in self.layers:
            if layer.lengths[row] != length:
                layer.truncate(row, length)

    def keep_path(self, start: int, places: Sequence[int], row: int = 0) -> None:
        """Of one row's tokens from `start` on keeps, in every layer, those at these places: a path through a tree.

        places: ascending, counted from `start`; every layer must hold them.
        """
        for layer in self.layers:
            layer.keep_path(row, start, places)

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
