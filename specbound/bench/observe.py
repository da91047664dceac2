"""One untimed pass of a method over a prompt: its steps, layer calls and rows, first token and peak memory.

Hooks and streams would disturb the clock, so that nothing here is timed but the first token. Knows no table.
"""

# T prompt tokens, n rows of a layer call

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.generation.streamers import BaseStreamer

from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.stats import DecodeStats
from specbound_controller.records import StepRecord


@dataclass(frozen=True, slots=True)
class Observation:
    """What one method did on one prompt."""

    tokens: list[int]
    """New tokens."""
    stats: DecodeStats
    """Counts, prefill left out of the layer calls."""
    num_layer_rows: int
    """Rows of all layer calls, those of the prompt left out."""
    first_token_s: float
    """Seconds from call to the first new token."""
    step_tokens: tuple[int, ...]
    """Tokens that each step emitted, in order."""
    peak_bytes: int | None
    """Peak memory: of the GPU's allocator, or of the whole process on a CPU; None where the system does not say."""
    records: tuple[StepRecord, ...] = ()
    """Our decoder's steps, the first one left out."""
    steps_s: float = 0.0
    """Seconds of these steps by the clock that cost tables are measured with."""


class FirstToken(BaseStreamer):
    """Sees when new tokens come, and how many at a time."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.first_s = float("nan")
        self.counts: list[int] = []
        self._has_prompt = False

    def put(self, value: Tensor) -> None:
        """The prompt first, then new tokens as they are committed."""
        if not self._has_prompt:
            self._has_prompt = True
            return
        if not self.counts:
            self.first_s = time.perf_counter() - self.started
        self.counts.append(value.numel())

    def end(self) -> None:
        """Nothing is left."""


@dataclass(slots=True)
class LayerCounter:
    """Counts layer calls by hooks on a model's layers: of the model, and of a draft that shares them."""

    adapter: ModelAdapter
    prompt_length: int
    num_calls: int = 0
    num_rows: int = 0
    last_layer_rows: list[int] = field(default_factory=list)
    """Rows of every call of the last layer, which no draft runs, the prompt's among them."""

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Counts until the end of the block; then the hooks are gone, whatever happened."""
        handles = [
            layer.register_forward_pre_hook(self._hook_of(index), with_kwargs=True)
            for index, layer in enumerate(self.adapter.layers)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook_of(self, layer: int) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def count(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            rows, cache = hidden.shape[1], kwargs.get(self.adapter.family.cache_argument)
            if layer == self.adapter.num_layers - 1:
                self.last_layer_rows.append(rows)
            if cache is not None and cache.get_seq_length(layer) == 0:
                rows -= self.prompt_length  # a first call may verify a draft together with the prompt
            if rows > 0:
                self.num_calls += 1
                self.num_rows += rows

        return count


def observe_transformers(
    adapter: ModelAdapter, generate: Callable[[BaseStreamer], list[int]], prompt_length: int
) -> Observation:
    """Runs one call of transformers' generate, which is given a streamer."""
    counter = LayerCounter(adapter, prompt_length)
    with counter.counting(), peak_memory(adapter.device) as peak:
        streamer = FirstToken()
        tokens = generate(streamer)
    rows, emitted = counter.last_layer_rows, streamer.counts
    is_first_drafted = rows[0] > prompt_length
    drafted = [rows[0] - prompt_length, *(n - 1 for n in rows[1:])]
    steps = emitted if is_first_drafted else emitted[1:]
    stats = DecodeStats(
        num_tokens=len(tokens),
        num_steps=len(steps),
        num_step_tokens=sum(steps),
        num_drafted=sum(drafted),
        num_accepted=len(tokens) - len(emitted),  # every call of the full model yields one token of its own
        num_layer_calls=counter.num_calls,
        prefill_seconds=streamer.first_s,
    )
    return Observation(tokens, stats, counter.num_rows, streamer.first_s, tuple(steps), peak())


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Callable[[], int | None]]:
    """Peak bytes from here on: on a GPU what its allocator held at most, else the process's resident memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: int(torch.cuda.max_memory_allocated(device))
        return
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Linux: forget the peak so far
    except OSError:
        yield lambda: None
        return
    yield _peak_resident


def _peak_resident() -> int | None:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None
