"""What compiled segments cost and save: a measurement of `specbound.bench.micro`."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor

from specbound.bench.micro.timing import interleaved
from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.model.cache import DecodeCache
from specbound.decoding.model.families import name_of
from specbound.decoding.model.graph_capture import GraphCapture
from specbound.decoding.model.segments import (
    CALLS_BEFORE_CAPTURE,
    Capture,
    Segment,
    StaticSegments,
    row_bucket,
)
from specbound.models.loading import load_model
from specbound_profiling.costs.stopwatch import step_clock

# n new tokens, D hidden width


@torch.inference_mode()
def segments(
    model: str = "demo",
    compression: str = "none",
    exit_layer: int = 2,
    rows: Sequence[int] = (1, 4, 8),
    context: int = 200,
    num_rounds: int = 100,
) -> None:
    """Microseconds of runs of layers as they are, on static buffers, and compiled; calls until that is earned back.

    Compiled: on a GPU CUDA graphs, as `SpecBoundDecoder(compile=True)` runs them; on a CPU `torch.compile` (inductor),
    which the decoder does not offer. On one CPU thread processor seconds.
    """
    adapter = ModelAdapter(load_model(model, compression).model)
    is_gpu = adapter.device.type == "cuda"
    kind = "CUDA graph" if is_gpu else "torch.compile"
    print(f"{adapter.device}, {str(adapter.dtype).removeprefix('torch.')}, context {context}, {num_rounds} rounds")
    print("" if is_gpu else "no GPU: CUDA graphs were not measured\n")
    print(f"| layers | rows | as they are | static buffers | {kind} | build s | same bits | calls to earn it back |")
    print("|---|---|---|---|---|---|---|---|")
    num_layers = adapter.num_layers
    ranges = [(0, exit_layer, 1), *((exit_layer, num_layers, n) for n in rows), (0, num_layers, 1)]
    for first, last, num_rows in ranges:
        torch.compiler.reset()
        capture: Capture = GraphCapture(name_of(adapter.model), adapter.device) if is_gpu else _inductor
        own, static, compiled = (
            _Calls(adapter, each, first, last, num_rows, context)
            for each in (None, StaticSegments(adapter), StaticSegments(adapter, capture))
        )
        for _ in range(CALLS_BEFORE_CAPTURE):
            compiled()
        same = torch.equal(own(), compiled())
        clock = partial(_gpu_clock, adapter.device) if is_gpu else step_clock(adapter.device)
        calls: dict[str, Callable[[], object]] = {"own": own, "static": static, "compiled": compiled}
        seconds = interleaved(calls, num_rounds, clock)
        saved = seconds["own"] - seconds["compiled"]
        back = f"{compiled.build_seconds / saved:,.0f}" if saved > 0 else "never"
        cells = " | ".join(f"{each * 1e6:.0f} µs" for each in seconds.values())
        cells += f" | {compiled.build_seconds:.3f} | {'yes' if same else 'no'} | {back}"
        print(f"| {first}–{last} | {num_rows} | {cells} |", flush=True)
    print(f"\nPlain decoding calls 0–{num_layers} once per token; a step of drafts calls its verification once.")


class _Calls:
    """One run of layers again and again, at the same position of a cache of its own."""

    def __init__(
        self, adapter: ModelAdapter, segments: StaticSegments | None, first: int, last: int, num_new: int, context: int
    ) -> None:
        self.adapter, self.segments, self.range, self.context = adapter, segments, (first, last), context
        generator = torch.Generator().manual_seed(0)
        token_ids = torch.randint(adapter.vocab_size, (1, context + num_new), generator=generator).to(adapter.device)
        self.cache: DecodeCache = adapter.new_cache(context + num_new)
        prompt = adapter.embed(token_ids[:, :context], 0)
        adapter.run_layers(prompt, 0, adapter.num_layers, self.cache, 0)
        hidden = adapter.embed(token_ids[:, context:], context)
        self.hidden: Tensor = adapter.run_layers(hidden, 0, first, self.cache, context) if first else hidden
        self.cache.truncate(context)

    def __call__(self) -> Tensor:
        """(1, n, D)"""
        self.adapter.segments = self.segments
        output = self.adapter.run_layers(self.hidden, *self.range, self.cache, self.context)
        self.cache.truncate(self.context)
        return output

    @property
    def build_seconds(self) -> float:
        """Seconds that its segment took to capture."""
        assert self.segments is not None
        (segment,) = cast("list[Segment]", self.segments.segments.values())
        assert segment.is_captured and segment.shape.num_rows == row_bucket(self.hidden.shape[1])
        return segment.capture_seconds


def _inductor(compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Compiles for the shapes at hand, and runs once: `torch.compile` builds at the first call, here from nothing."""
    compiled: Callable[[], Tensor] = torch.compile(compute, dynamic=False, fullgraph=True)
    with torch.compiler.config.patch(force_disable_caches=True):  # type: ignore[attr-defined]  # it gets its methods late
        compiled()
    return compiled


def _gpu_clock(device: torch.device) -> float:
    """The wall clock once the device has done all its work. Seconds."""
    torch.cuda.synchronize(device)
    return step_clock(device)()
