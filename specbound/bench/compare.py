"""Times methods of one or two levels of exactness together, looks at each once more, and compares all outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from specbound.bench.efficiency import Breakdown, breakdown
from specbound.bench.methods import BenchMethod, OurMethod
from specbound.bench.observe import Observation
from specbound.bench.rows import Level
from specbound.bench.transformers_methods import TransformersMethod
from specbound.decoding.model.adapter import ModelAdapter
from specbound.evaluation.timing import (
    ContentionProbe,
    Method,
    TimedPrompt,
    find_differences,
    time_methods,
)
from specbound_controller.costs import CostTable


@dataclass(slots=True)
class Group:
    """Methods whose outputs and speeds are compared at one level; plain decoding is among ours."""

    ours: list[OurMethod]
    costs: CostTable | None = None
    """Prices of our methods' work; None leaves the shares of time out."""
    theirs: list[TransformersMethod] = field(default_factory=list)

    @property
    def methods(self) -> list[BenchMethod]:
        """Theirs, then ours."""
        return [*self.theirs, *self.ours]


@dataclass(frozen=True, slots=True)
class Comparison:
    """How groups are compared."""

    adapter: ModelAdapter
    """The model; for the verdict on differences."""
    compression: str
    num_rounds: int
    seed: int
    """Of the bootstrap."""
    is_sampled: bool = False
    """Whether transformers' methods draw tokens of their own, so that nothing is to be equal."""
    is_synthetic: bool = False

    def run(self, groups: Mapping[str, Group], prompts: Sequence[TimedPrompt], probe: ContentionProbe) -> list[Level]:
        """All methods interleaved on one clock, then everything that would disturb it. groups: exactness -> group"""
        named = {(level, m.name): m for level, group in groups.items() for m in group.methods}
        timed = [Method(f"{name}@{level}", method.run) for (level, name), method in named.items()]
        shorter = "--num-prompts, --num-rounds, --methods and --max-new-tokens shorten it"
        timings = time_methods(timed, prompts, self.num_rounds, probe, shorter=shorter)
        levels = []
        for level, group in groups.items():
            of_level = {method.name: timings[f"{method.name}@{level}"] for method in group.methods}
            theirs = {method.name for method in group.theirs} if self.is_sampled else set()
            promised = {name: each for name, each in of_level.items() if name not in theirs}
            seen = {method.name: [method.observe(prompt) for prompt in prompts] for method in group.methods}
            levels.append(
                Level(
                    exactness=level,
                    compression=self.compression,
                    num_layers=self.adapter.num_layers,
                    prompts=prompts,
                    timings=of_level,
                    observations=seen,
                    settings={method.name: method.setting for method in group.methods},
                    differences=find_differences(promised, prompts, self.adapter, level),
                    breakdowns=breakdowns(group, seen),
                    seed=self.seed,
                    without_promise=frozenset(theirs),
                    is_synthetic=self.is_synthetic,
                )
            )
        return levels


def breakdowns(group: Group, seen: Mapping[str, Sequence[Observation]]) -> dict[str, Breakdown]:
    """Where the seconds of our methods' steps go, by name."""
    if group.costs is None:
        return {}
    found = {}
    for method in group.ours:
        records = [record for observation in seen[method.name] for record in observation.records]
        measured_s = sum(observation.steps_s for observation in seen[method.name])
        each = breakdown(records, measured_s, group.costs, method.policy.needs_features)
        if each is not None:
            found[method.name] = each
    return found


def conditions(levels: Sequence[Level], probe: ContentionProbe, allow_noise: bool) -> list[str]:
    """What has to be said of any comparison, one line each."""
    over = ", ".join(dict.fromkeys(f"{level.reference} ({level.exactness})" for level in levels))
    notes = [
        f"speedups are over {over}; 95 % intervals over prompts",
        "layer calls, memory, shares of time, and transformers' first token and steps: on runs of their own, not timed",
    ]
    notes += [difference.describe() for level in levels for difference in level.differences]
    deviating = sum(t.num_deviating_runs for level in levels for each in level.timings.values() for t in each)
    if deviating:
        notes.append(f"{deviating} runs gave other tokens than the first of their kind")
    notes += probe.conditions(allow_noise)
    return notes
