"""Chooses settings on prompts of their own: transformers' by decoding, our best static one by replay."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from specbound.bench.transformers_methods import (
    DEFAULT_THRESHOLD,
    DOCUMENTED_EXIT,
    Assistance,
    TransformersMethod,
)
from specbound.decoding.model.adapter import ModelAdapter
from specbound.evaluation.timing import ContentionProbe, Method, TimedPrompt, time_methods
from specbound.models.loading import LoadedModel
from specbound_controller.costs import CostTable
from specbound_controller.lookup import LOOKUP_EXIT
from specbound_controller.policy import StaticPolicy
from specbound_controller.ratio import ratio
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.replay.best_static import static_seconds

GRID_KINDS = {
    "assistant_early_exit": "early_exit",
    "assistant_early_exit_default": "early_exit",
    "assistant_early_exit_heuristic": "early_exit",
    "assistant_model": "draft_model",
    "prompt_lookup": "prompt_lookup",
}
"""Method -> who drafts."""
ANY_LOOKUP = 1e-6
"""Threshold that every lookup clears that finds something."""
MAX_WIDTH = 8
"""Longest draft that the map of exits and widths knows."""


class Grid(Protocol):
    """What bounds the grids of transformers' methods."""

    @property
    def tuned_exit_layers(self) -> Literal["auto"] | tuple[int, ...]: ...

    @property
    def tuned_lengths(self) -> tuple[int, ...]: ...


@dataclass(slots=True)
class Tuned:
    """What was chosen."""

    methods: list[TransformersMethod] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What was searched, and what the model does not allow, one line each."""


def candidates(name: str, config: Grid, num_layers: int) -> list[Assistance]:
    """Settings of one of transformers' methods among which the tuning prompts decide."""
    kind = GRID_KINDS[name]
    exits = shallow_exits(num_layers) if config.tuned_exit_layers == "auto" else config.tuned_exit_layers
    lengths = config.tuned_lengths
    if name == "assistant_early_exit_default":
        return [Assistance(kind, exit_layer=min(DOCUMENTED_EXIT, num_layers - 1))]
    if name == "assistant_early_exit_heuristic":
        start = [length for length in lengths if length > 1] or [*lengths]
        return [Assistance(kind, length, e, 0.0, "heuristic_transient") for e in exits for length in start[:2]]
    if name == "prompt_lookup":
        return [Assistance(kind, length) for length in lengths]
    if name == "assistant_model":
        return [Assistance(kind, length, e) for e in exits for length in lengths]
    thresholds = (DEFAULT_THRESHOLD, 0.0)
    fixed = [Assistance(kind, length, e, t) for e in exits for length in lengths for t in thresholds]
    return [each for each in fixed if each.threshold == 0.0 or each.length > 1]  # a first draft token is never stopped


def shallow_exits(num_layers: int) -> tuple[int, ...]:
    """Layers at 1/16, 1/8, 3/16, 1/4 and 3/8 of the depth."""
    return tuple(sorted({max(1, round(num_layers * share)) for share in (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8)}))


def tune_transformers(names: Sequence[str], config: Grid, loaded: LoadedModel, prompts: Sequence[TimedPrompt]) -> Tuned:
    """The fastest setting of each method on the tuning prompts, by tokens per second of one interleaved round."""
    tuned, num_layers = Tuned(), ModelAdapter(loaded.model).num_layers
    for name in names:
        grid = candidates(name, config, num_layers)
        try:
            methods = [TransformersMethod(name, loaded.model, each) for each in grid]
            best = methods[0] if len(methods) == 1 else fastest(methods, prompts)
            best.run(prompts[0])
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:  # what transformers dies of
            tuned.notes.append(f"{name} is left out: {type(error).__name__}: {' '.join(str(error).split())[:120]}")
            continue
        tuned.methods.append(best)
        chosen = f"best of {len(grid)} settings on the tuning prompts" if len(grid) > 1 else "the one setting"
        tuned.notes.append(f"{name}: {best.setting}, {chosen}")
    return tuned


def fastest(methods: Sequence[TransformersMethod], prompts: Sequence[TimedPrompt]) -> TransformersMethod:
    """The method with the most tokens per second in one interleaved round."""
    named = {f"{index}": method for index, method in enumerate(methods)}
    timings = time_methods([Method(key, method.run) for key, method in named.items()], prompts, 1, ContentionProbe())

    def seconds_per_token(key: str) -> float:
        of_method = timings[key]
        return sum(timing.seconds for timing in of_method) / sum(len(timing.tokens) for timing in of_method)

    return named[min(named, key=seconds_per_token)]


def speedup_map(
    traces: Sequence[PromptTrace], costs: CostTable, num_layers: int
) -> tuple[tuple[int, ...], list[list[float]]]:
    """Replayed speedup of drafts without a test over plain decoding: exit layers, rows of widths from 0 on. (E, K)

    A lookup, which has no layer, drafts wherever it finds something. nan where no prompt took a step.
    """
    exits = traces[0].exit_layers
    plain = StaticPolicy(()).decide(None)
    thresholds = {e: ANY_LOOKUP if e == LOOKUP_EXIT else 0.0 for e in exits}
    fixed = [StaticPolicy((e,), thresholds[e], w).decide(None) for e in exits for w in range(1, MAX_WIDTH + 1)]
    seconds = static_seconds(traces, costs, [plain, *fixed], num_layers)
    speedups = [ratio(seconds[0], each) for each in seconds[1:]]
    rows = [speedups[first : first + MAX_WIDTH] for first in range(0, len(speedups), MAX_WIDTH)]
    return exits, [[1.0, *row] for row in rows]
