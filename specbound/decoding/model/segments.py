"""Runs of layers whose shapes depend on no position, so that a CUDA graph can replay them without Python.

Decoding one row launches a dozen small kernels a layer, and on a GPU the launches take longer than the kernels. Here a
segment (first layer, last layer, a bucket of rows, a bucket of keys) reads and writes tensors that keep their
addresses: attention sees whole buckets of the cache under a mask, positions are tensors. Knows the adapter and caches;
nothing of drafts.
"""

import logging
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.model.cache import DecodeCache
from specbound.decoding.model.families import name_of
from specbound.decoding.model.graph_capture import GraphCapture
from specbound.decoding.model.static_cache import StaticBuffers, StaticView
from specbound_controller.errors import InputError, UnsupportedModelError

# B sequences, n new tokens, R rows of a bucket, D hidden width

logger = logging.getLogger(__name__)

ROW_BUCKETS = (1, 2, 4, 8, 16)
"""Rows of a segment; calls between two of them are padded. Longer ones run as without segments."""
FEWEST_KEYS = 256
"""Keys of the smallest segment; each next one has twice as many."""
CALLS_BEFORE_CAPTURE = 2
"""Calls of a segment that run without a graph, so that only what repeats is captured."""
MOST_SEGMENTS = 256
"""So many are kept, with their graphs and tensors; other calls run as without segments."""

Capture = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]
"""Turns a function that reads and writes the same tensors at every call into a faster one."""


class SegmentShape(NamedTuple):
    """What a segment is captured for."""

    first: int
    last: int
    """It runs `layers[first:last]`."""
    num_rows: int
    num_keys: int


def row_bucket(num_new: int) -> int:
    """The fewest rows of a segment that hold so many, at most `ROW_BUCKETS[-1]`."""
    return next(rows for rows in ROW_BUCKETS if rows >= num_new)


def key_bucket(length: int) -> int:
    """The fewest keys of a segment that hold so many tokens."""
    keys = FEWEST_KEYS
    while keys < length:
        keys *= 2
    return keys


class Segment:
    """One segment with the tensors that it reads."""

    def __init__(self, adapter: ModelAdapter, buffers: StaticBuffers, shape: SegmentShape, like: Tensor) -> None:
        """like: hidden states (1, n, D), whose width, dtype and device the segment takes."""
        self._adapter, self.buffers, self.shape = weakref.ref(adapter), buffers, shape
        self.num_calls = 0
        self.capture_seconds = 0.0
        self._hidden = like.new_zeros(1, shape.num_rows, like.shape[2])
        self._offsets = torch.arange(shape.num_rows, device=like.device)
        self._start, self._last = self._offsets.new_zeros(()), self._offsets.new_zeros(())
        self._tables = adapter.position_tables()  # held: a graph reads their memory when the adapter has larger ones
        self._captured: Callable[[], Tensor] | None = None

    def __call__(self, hidden: Tensor, position: int) -> Tensor:
        """Runs the layers on n tokens, the first at `position`. (1, n, D) -> (1, n, D)"""
        num_new = hidden.shape[1]
        self._hidden[:, :num_new].copy_(hidden)
        self._start.fill_(position)
        self._last.fill_(num_new - 1)
        self.num_calls += 1
        output = self.compute() if self._captured is None else self._captured()
        return output[:, :num_new].clone()  # the next call overwrites it

    def capture(self, capture: Capture) -> None:
        """Replaces the computation by what `capture` makes of it, on the inputs of the last call."""
        started = time.perf_counter()
        self._captured = capture(self.compute)
        self.capture_seconds = time.perf_counter() - started

    @property
    def is_captured(self) -> bool:
        return self._captured is not None

    def compute(self) -> Tensor:
        """The layers on the tensors of the segment. Rows that pad it are copies of the last one. -> (1, R, D)"""
        index = torch.minimum(self._offsets, self._last)
        view = StaticView(self.buffers, self._start + index, self.shape.num_keys)
        hidden = self._hidden.index_select(1, index)
        adapter = self._adapter()
        assert adapter is not None  # it holds the segments
        return adapter.run_static(hidden, self.shape.first, self.shape.last, view, self._tables)


class StaticSegments:
    """The segments of one model, for calls of one sequence."""

    def __init__(self, adapter: ModelAdapter, capture: Capture | None = None) -> None:
        """No segments yet; they come with the calls.

        Args:
            capture: makes a segment fast once it repeats; None runs all of them as they are.

        Raises:
            UnsupportedModelError: a segment of this model cannot be replayed; the message says why.
        """
        self._adapter, self._capture = weakref.ref(adapter), capture
        self._most = MOST_SEGMENTS
        self.segments: dict[SegmentShape, Segment] = {}
        self.buffers = StaticBuffers(adapter.num_layers, FEWEST_KEYS)
        self._state: tuple[object, ...] = ()
        self._is_hooked = False
        self._lock = threading.Lock()
        self.refresh()

    @property
    def adapter(self) -> ModelAdapter:
        """Whose layers these are. It holds the segments, not the other way round: what they hold on a device is free
        as soon as it is gone."""
        adapter = self._adapter()
        assert adapter is not None
        return adapter

    def refresh(self) -> None:
        """Looks again at the layers; what was captured of others is dropped. Layers with hooks run without segments."""
        state = layers_state(self.adapter)
        if state == self._state:
            return
        refuse_uncapturable(self.adapter)
        modules = list(self.adapter.layers.modules())
        self._is_hooked = any(module._forward_hooks or module._forward_pre_hooks for module in modules)
        self._clear(FEWEST_KEYS)  # keys and values may be of another kind now
        self._state = state

    def _clear(self, capacity: int) -> None:
        """Begins with new buffers; whoever was lent the old ones keeps them."""
        self.segments.clear()
        self.buffers = StaticBuffers(self.adapter.num_layers, capacity)
        self._most = MOST_SEGMENTS

    def takes(self, hidden: Tensor, cache: DecodeCache, position: int) -> bool:
        """Whether a call of `run_layers` can run as a segment. hidden: (B, n, D)"""
        is_short = position > 0 and hidden.shape[1] <= ROW_BUCKETS[-1]
        return is_short and cache.batch_size == 1 and cache.call is None and not self._is_hooked

    def run(self, hidden: Tensor, first: int, last: int, cache: DecodeCache, position: int) -> Tensor:
        """As `ModelAdapter.run_layers`, one call at a time: the buffers are lent. hidden: (1, n, D) -> (1, n, D)"""
        with self._lock:
            return self._run(hidden, first, last, cache, position)

    @torch.inference_mode()
    def _run(self, hidden: Tensor, first: int, last: int, cache: DecodeCache, position: int) -> Tensor:
        end = position + hidden.shape[1]
        if end > self.buffers.capacity:
            self._clear(key_bucket(end))
        shape = SegmentShape(first, last, row_bucket(hidden.shape[1]), key_bucket(end))
        if shape not in self.segments and len(self.segments) >= self._most:
            return self.adapter.run_open(hidden, first, last, cache, position)
        layers = cache.layers[first:last]
        for index, layer in enumerate(layers, first):
            assert layer.lengths[0] == position, (index, layer.lengths[0], position)
            self.buffers.lend(index, layer)
        segment = self._segment(shape, hidden)
        output = segment(hidden, position)
        for layer in layers:
            layer.lengths[0] = end
        if self._capture is not None and segment.num_calls == CALLS_BEFORE_CAPTURE:
            self._try_to_capture(segment, self._capture)
        return output

    def _try_to_capture(self, segment: Segment, capture: Capture) -> None:
        """Where a graph does not fit on the device, its calls and all new ones run as without segments."""
        try:
            segment.capture(capture)
        except torch.OutOfMemoryError:
            del self.segments[segment.shape]
            self._most = len(self.segments)
            logger.warning(
                "%s: the device has no room for more than %d captured segments; other calls run without",
                name_of(self.adapter.model),
                self._most,
            )

    def _segment(self, shape: SegmentShape, like: Tensor) -> Segment:
        segment = self.segments.get(shape)
        if segment is None:
            self.adapter.reserve_positions(self.buffers.capacity)
            segment = self.segments[shape] = Segment(self.adapter, self.buffers, shape, like)
        return segment


def compiled_segments(adapter: ModelAdapter, exactness: str) -> StaticSegments:
    """Segments captured as CUDA graphs, what `SpecBoundDecoder(compile=True)` runs.

    Raises:
        InputError: not on a GPU, or at a level of exactness that segments do not keep.
        UnsupportedModelError: a segment of this model cannot be replayed.
    """
    if exactness != "token":
        raise InputError(
            f"compile must be False at exactness {exactness!r}: masked attention over a bucket of keys rounds "
            f"differently from attention over the keys alone"
        )
    if adapter.device.type != "cuda":
        raise InputError(f"compile must be False on {adapter.device}, because segments are CUDA graphs: use a GPU")
    return StaticSegments(adapter, GraphCapture(name_of(adapter.model), adapter.device))


def layers_state(adapter: ModelAdapter) -> tuple[object, ...]:
    """What a captured segment relies on: equal as long as the layers are the same at the same addresses."""
    state: list[object] = [adapter.config._attn_implementation]
    for module in adapter.layers.modules():
        own: Any = module
        hooks = bool(own._forward_hooks or own._forward_pre_hooks)
        state.append((id(own), type(own), hooks, own.__dict__.get("forward")))
        state.extend(tensor.data_ptr() for tensor in own._parameters.values() if tensor is not None)
    return tuple(state)


def refuse_uncapturable(adapter: ModelAdapter) -> None:
    """Raises `UnsupportedModelError` with the reason where replaying layers would not be running them."""
    name = name_of(adapter.model)
    if adapter.autocast is not None:
        raise UnsupportedModelError(
            f"{name} runs in an autocast region, at whose end the weights that it has cast are gone under the graphs: "
            f"cast the model itself for compile=True"
        )
    modules: list[nn.Module] = list(adapter.layers.modules())
    if any(type(module).__module__.startswith("peft.") for module in modules):
        raise UnsupportedModelError(f"{name} has PEFT adapters, which can be switched behind a graph: merge them first")
    places = sorted({str(parameter.device) for parameter in adapter.layers.parameters()})
    if len(places) > 1:
        raise UnsupportedModelError(f"{name} is on {', '.join(places)}: compile=True needs one device")
    for module in modules:
        state = getattr(module, "state", None)
        if type(module).__name__ == "Linear8bitLt" and getattr(state, "threshold", 0.0) > 0:
            raise UnsupportedModelError(
                f"{name}: int8 projections with outliers wait for the device at every call; for compile=True load the "
                f"model with llm_int8_threshold=0"
            )
