"""How seconds grow: with context, width, layers, vocabulary, prompts. Everything is expected to grow in proportion.

Random models of a tiny shape, one thing varied at a time; all points of an axis are measured in turn, several times.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from specbound.bench.growth import Growth, fit_growth
from specbound.bench.result import Say
from specbound.bench.shapes import SHAPE_SIZES, Shape, model_of
from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.model.adapter import ModelAdapter
from specbound_controller.costs import WORK_NAMES, CostTable
from specbound_controller.policy import StaticPolicy
from specbound_profiling.costs.stopwatch import step_clock
from specbound_profiling.log.synthetic import synthetic_traces
from specbound_profiling.recording.record import Recorder
from specbound_profiling.recording.settings import RecordSettings
from specbound_profiling.replay.best_static import static_seconds

VALUES = {
    "context": (64, 128, 256, 512, 1024, 2048, 4096),
    "width": tuple(range(17)),
    "layers": (4, 8, 16, 32),
    "vocabulary": (1024, 4096, 16384, 65536, 131072),
    "prompts": (2, 4, 8, 16, 32),
}
"""Axis -> its points."""
SHAPE = SHAPE_SIZES["tiny"]
"""What does not vary."""
NUM_ROUNDS = 3
NUM_STEPS = 16
"""Most steps of a point whose median counts."""
CONTEXT = 64
"""Prompt tokens where context does not vary."""
RECORDED_TOKENS = 24
REPLAYED = 64
"""Prompts that are replayed for each one that is profiled."""
EXIT_LAYER, WIDTH = 2, 4
"""The fixed draft where width does not vary."""

NOTES = (
    "random models of a tiny shape on the CPU, one thing varied at a time; medians of several rounds, processor time",
    "expected: a fixed part and growth in proportion, exponent 1; an exponent near 2 would be growth with the square, "
    "– means that hardly anything grows",
)
"""What has to be said beside the series."""

Point = tuple[str, int, Callable[[], float]]
"""Name of the series, value on the axis, and what measures its seconds."""


@dataclass(frozen=True, slots=True)
class Series:
    """Seconds of one thing along an axis."""

    axis: str
    name: str
    values: tuple[int, ...]
    seconds: tuple[float, ...]
    fit: Growth


def measure_scaling(axes: Sequence[str], seed: int, say: Say) -> list[Series]:
    """All series of the axes. `say` gets a line as each axis begins."""
    found = []
    for axis in axes:
        say(f"scaling: {axis}")
        points = POINTS[axis](seed)
        seconds: dict[tuple[str, int], list[float]] = {(name, value): [] for name, value, _ in points}
        for _ in range(NUM_ROUNDS):
            for name, value, measure in points:
                seconds[name, value].append(measure())
        for name in dict.fromkeys(name for name, _, _ in points):
            values = tuple(value for other, value, _ in points if other == name)
            medians = tuple(float(np.median(seconds[name, value])) for value in values)
            found.append(Series(axis, name, values, medians, fit_growth(values, medians)))
    return found


def _model(seed: int, shape: Shape = SHAPE) -> ModelAdapter:
    return ModelAdapter(model_of(shape, torch.device("cpu"), torch.float32, seed))


def _prompt(length: int, seed: int) -> Tensor:
    """(1, T)"""
    return torch.randint(SHAPE.vocab_size, (1, length), generator=torch.Generator().manual_seed(seed))


def _step_seconds(adapter: ModelAdapter, ids: Tensor, width: int) -> Callable[[], float]:
    """Measures an average step of plain decoding (width 0) or of a fixed draft: the median over some steps."""
    policy = StaticPolicy((EXIT_LAYER,), 0.0, width) if width else StaticPolicy(())
    decoder, clock = SpecBoundDecoder(adapter.model, policy, record_steps=False), step_clock(adapter.device)

    def measure() -> float:
        marks: list[tuple[int, float]] = []
        limit = NUM_STEPS + 2 * width  # at least the first steps draft in full, whatever is accepted
        decoder.decode(
            [ids], max_new_tokens=limit, on_step=lambda record, row: marks.append((record.num_drafted, clock()))
        )
        steps = [after - before for (_, before), (drafted, after) in pairwise(marks) if drafted == width]
        return float(np.median(steps))

    return measure


def _context(seed: int) -> list[Point]:
    adapter = _model(seed)
    kinds = {"plain, per token": 0, f"draft of {WIDTH}, per step": WIDTH}
    return [
        (name, length, _step_seconds(adapter, _prompt(length, seed), width))
        for name, width in kinds.items()
        for length in VALUES["context"]
    ]


def _width(seed: int) -> list[Point]:
    adapter, ids = _model(seed), _prompt(CONTEXT, seed)
    return [("fixed draft, per step", width, _step_seconds(adapter, ids, width)) for width in VALUES["width"]]


def _layers(seed: int) -> list[Point]:
    ids = _prompt(CONTEXT, seed)
    return [
        ("plain, per token", count, _step_seconds(_model(seed, replace(SHAPE, num_layers=count)), ids, 0))
        for count in VALUES["layers"]
    ]


def _vocabulary(seed: int) -> list[Point]:
    ids = _prompt(CONTEXT, seed)
    return [
        ("plain, per token", size, _step_seconds(_model(seed, replace(SHAPE, vocab_size=size)), ids, 0))
        for size in VALUES["vocabulary"]
    ]


def _prompts(seed: int) -> list[Point]:
    adapter = _model(seed)
    recorder = Recorder(adapter, RecordSettings((1, EXIT_LAYER, 4), RECORDED_TOKENS, eos_token_ids=()))
    clock, costs = step_clock(adapter.device), CostTable(dict.fromkeys(WORK_NAMES, 1e-5), "none", "made up", 0.0, 30)
    traces = synthetic_traces(max(VALUES["prompts"]) * REPLAYED, RECORDED_TOKENS, (1, EXIT_LAYER, 4), seed)
    grid = [StaticPolicy((e,), t, w).decide(None) for e in (1, EXIT_LAYER) for t in (0.0, 0.3) for w in (1, 2, 4, 8)]

    def profile(count: int) -> float:
        started = clock()
        for index in range(count):
            recorder.record(_prompt(CONTEXT, seed + index), index)
        return clock() - started

    def replay(count: int) -> float:
        started = clock()
        static_seconds(traces[:count], costs, grid, adapter.num_layers)
        return clock() - started

    counts = VALUES["prompts"]
    profiled: list[Point] = [("profile", count, partial(profile, count)) for count in counts]
    return profiled + [("replay", count, partial(replay, count)) for count in (REPLAYED * count for count in counts)]


POINTS: dict[str, Callable[[int], list[Point]]] = {
    "context": _context,
    "width": _width,
    "layers": _layers,
    "vocabulary": _vocabulary,
    "prompts": _prompts,
}
"""Axis -> its points, by seed."""
