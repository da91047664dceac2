"""Runs of layers whose shapes depend on no position, so that a CUDA graph can replay them without Python.

Decoding one row launches a dozen small kernels a layer, and on a GPU the launches take longer than the kernels. Here a
segment (first layer, last layer, a bucket of rows, a bucket of keys) reads and writes tensors that keep their
addresses: attention sees whole buckets of the cache under a mask, positions are tensors. Knows the adapter and caches,
and of drafts only which nodes of a tree a call runs.
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
from specbound.decoding.model.ragged import RaggedCall, sent
from specbound.decoding.model.static_cache import StaticBuffers, StaticView, TreeView
from specbound.decoding.model.tree_call import TreeCall
from specbound_controller.errors import InputError, UnsupportedModelError

# B sequences, n new tokens, R rows of a bucket, N nodes of a bucket, D hidden width

logger = logging.getLogger(__name__)

ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
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
    num_nodes: int = 0
    """Nodes of a draft tree that its rows belong to; 0 for tokens that stand one after another."""


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
    """One segment with the tensors that it reads: tokens that stand one after another."""

    def __init__(self, adapter: ModelAdapter, buffers: StaticBuffers, shape: SegmentShape, like: Tensor) -> None:
        """like: hidden states (1, n, D), whose width, dtype and device the segment takes."""
        self._adapter, self.buffers, self.shape = weakref.ref(adapter), buffers, shape
        self.num_calls = 0
        self.capture_seconds = 0.0
        self._hidden = like.new_zeros(1, shape.num_rows, like.shape[2])
        self._tables = adapter.position_tables()  # held: a graph reads their memory when the adapter has larger ones
        self._captured: Callable[[], Tensor] | None = None

        self._make_inputs(like.device)

    def _make_inputs(self, device: torch.device) -> None:
        self._offsets = torch.arange(self.shape.num_rows, device=device)
        self._start, self._last = self._offsets.new_zeros(()), self._offsets.new_zeros(())

    def at(self, position: int, num_new: int) -> None:
        """Says where the tokens of the next call stand: so many, the first at `position`."""
        self._start.fill_(position)
        self._last.fill_(num_new - 1)

    def __call__(self, hidden: Tensor) -> Tensor:
        """Runs the layers on n tokens, whose places have been said. (1, n, D) -> (1, n, D)"""
        num_new = hidden.shape[1]
        self._hidden[:, :num_new].copy_(hidden)
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
        return self._run(index, StaticView(self.buffers, self._start + index, self.shape.num_keys))

    def _run(self, index: Tensor, view: StaticView) -> Tensor:
        """index: which of the tokens that were copied each row is. (R,)"""
        adapter = self._adapter()
        assert adapter is not None  # it holds the segments
        return adapter.run_static(
            self._hidden.index_select(1, index), self.shape.first, self.shape.last, view, self._tables
        )


class TreeSegment(Segment):
    """One segment for nodes of a draft tree."""

    def _make_inputs(self, device: torch.device) -> None:
        rows, nodes = self.shape.num_rows, self.shape.num_nodes
        self._inputs = torch.zeros(3 * rows + nodes + rows * nodes, dtype=torch.int64, device=device)
        *own, sees = self._inputs.split([rows, rows, rows, nodes, rows * nodes])
        self._index, self._positions, self._places, self._node_positions = own
        self._sees = sees.view(rows, nodes)

    def on(self, call: TreeCall) -> None:
        """Says which nodes the next call runs: one tree's."""
        inputs = call.inputs(self.shape.num_rows, self.shape.num_nodes)
        self._inputs.copy_(sent(inputs, self._inputs.device))

    def compute(self) -> Tensor:
        view = TreeView(
            self.buffers, self._positions, self._places, self._node_positions, self._sees > 0, self.shape.num_keys
        )
        return self._run(self._index, view)


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

    def takes_rows(self, cache: DecodeCache, call: RaggedCall) -> bool:
        """Whether a call of `run_rows` can: that of one tree, in a cache of one sequence."""
        if not isinstance(call, TreeCall) or cache.batch_size > 1 or self._is_hooked:
            return False
        return call.starts[0] > 0 and call.num_nodes <= ROW_BUCKETS[-1]

    def run(self, hidden: Tensor, first: int, last: int, cache: DecodeCache, position: int) -> Tensor:
        """As `ModelAdapter.run_layers`, one call at a time: the buffers are lent. hidden: (1, n, D) -> (1, n, D)"""
        with self._lock:
            end = position + hidden.shape[1]
            segment = self._prepared(hidden, first, last, cache, position, end, 0)
            if segment is None:
                return self.adapter.run_open(hidden, first, last, cache, position)
            segment.at(position, hidden.shape[1])
            return self._run(segment, hidden, cache, end)

    def run_rows(self, hidden: Tensor, first: int, last: int, cache: DecodeCache, call: RaggedCall) -> Tensor:
        """As `ModelAdapter.run_rows`, the same. hidden: (1, n, D) -> (1, n, D)"""
        assert isinstance(call, TreeCall)  # what `takes_rows` has seen
        with self._lock:
            segment = self._prepared(hidden, first, last, cache, call.starts[0], call.end, row_bucket(call.num_nodes))
            if segment is None:
                return self.adapter.run_rows_open(hidden, first, last, cache, call)
            assert isinstance(segment, TreeSegment)
            segment.on(call)
            return self._run(segment, hidden, cache, call.end)

    @torch.inference_mode()
    def _prepared(
        self, hidden: Tensor, first: int, last: int, cache: DecodeCache, position: int, end: int, num_nodes: int
    ) -> Segment | None:
        """The segment of a call, the buffers lent to the cache; None where there is no room for another one."""
        if end > self.buffers.capacity:
            self._clear(key_bucket(end))
        shape = SegmentShape(first, last, row_bucket(hidden.shape[1]), key_bucket(end), num_nodes)
        if shape not in self.segments and len(self.segments) >= self._most:
            return None
        for index, layer in enumerate(cache.layers[first:last], first):
            assert layer.lengths[0] == position, (index, layer.lengths[0], position)
            self.buffers.lend(index, layer)
        return self._segment(shape, hidden)

    @torch.inference_mode()
    def _run(self, segment: Segment, hidden: Tensor, cache: DecodeCache, end: int) -> Tensor:
        output = segment(hidden)
        for layer in cache.layers[segment.shape.first : segment.shape.last]:
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
            kind = TreeSegment if shape.num_nodes else Segment
            segment = self.segments[shape] = kind(self.adapter, self.buffers, shape, like)
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
