"""SpecBound's own studies by replay: how much each setting matters, and each of its parts.

A setting is SpecBound's static policy: exits with one threshold on annealed confidence, bounded in depth and in width.
It is searched on some prompts and judged on others. Knows no model, no file and no plot.
"""

# B prompts

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from specbound_controller.costs import CostTable
from specbound_controller.policy import StaticPolicy
from specbound_controller.records import Decision, StepRecord
from specbound_controller.work import record_work
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.replay.bootstrap import bootstrap_ratio
from specbound_profiling.replay.replay import PLAIN, replay, replay_static
from specbound_profiling.replay.result import ReplayResult
from specbound_profiling.replay.trace_batch import TraceBatch

PARAMETERS = ("alpha", "threshold", "d_max", "w_max")
"""What a study varies, in the order of SpecBound's Figure 3."""
MAX_SWEEPS = 6
"""Most rounds over the parameters in the search."""


@dataclass(frozen=True, slots=True)
class Setting:
    """SpecBound's policy with fixed parameters."""

    exit_layers: tuple[int, ...]
    """Exits that are read, as far as the depth bound allows."""
    alpha: float
    threshold: float
    d_max: int
    w_max: int

    def policy(self) -> StaticPolicy:
        """A fresh policy."""
        return StaticPolicy(self.exit_layers, self.threshold, self.w_max, self.alpha, self.d_max)

    def decision(self) -> Decision:
        """What it decides at every step."""
        return self.policy().decide(None)

    def __str__(self) -> str:
        return f"alpha {self.alpha:g}, threshold {self.threshold:g}, d_max {self.d_max}, w_max {self.w_max}"


@dataclass(frozen=True, slots=True)
class StudyPoint:
    """One setting, replayed on the judging prompts."""

    label: str
    parameter: str
    """One of `PARAMETERS`, or the part that is taken away."""
    setting: Setting
    result: ReplayResult
    speedup: float
    """Over plain decoding, modelled, prefill left out."""
    speedup_low: float
    """Lower end of the 95 % bootstrap interval over prompts; nan for too few."""
    speedup_high: float


@dataclass(frozen=True, slots=True, eq=False)
class StudyData:
    """One compression level's prompts, in two halves."""

    searched: TraceBatch
    """Settings are chosen on these."""
    judged: TraceBatch
    """Every figure comes from these."""
    costs: CostTable
    num_layers: int
    seed: int
    """Seed of the bootstrap."""

    def seconds(self, setting: Setting) -> float:
        """Modelled seconds on the searching prompts."""
        return float(replay_static(self.searched, setting.decision(), self.costs, self.num_layers).seconds.sum())

    def judge(self, setting: Setting) -> ReplayResult:
        """Replay on the judging prompts."""
        return replay_static(self.judged, setting.decision(), self.costs, self.num_layers)

    def point(self, label: str, parameter: str, setting: Setting, result: ReplayResult | None = None) -> StudyPoint:
        """A point with its speedup; result: a replay on the judging prompts that is not the setting's own."""
        result = self.judge(setting) if result is None else result
        plain = replay_static(self.judged, PLAIN, self.costs, self.num_layers)
        low, high = bootstrap_ratio(plain.seconds, result.seconds, self.seed)
        return StudyPoint(label, parameter, setting, result, result.speedup_over(plain), low, high)


def halves(traces: Sequence[PromptTrace]) -> tuple[list[PromptTrace], list[PromptTrace]]:
    """The first, third, ... prompt of each kind of content, and the others."""
    seen: Counter[str] = Counter()
    parts: tuple[list[PromptTrace], list[PromptTrace]] = ([], [])
    for trace in traces:
        parts[seen[trace.task] % 2].append(trace)
        seen[trace.task] += 1
    return parts


def best_setting(
    start: Setting, choices: Mapping[str, Sequence[float]], seconds: Callable[[Setting], float]
) -> Setting:
    """The fastest setting along one parameter after another, again and again until none of them changes.

    A local optimum of the grid, not always the global one.

    Args:
        choices: values of each parameter that may change.
    """
    known: dict[Setting, float] = {}

    def of(setting: Setting) -> float:
        if setting not in known:
            known[setting] = seconds(setting)
        return known[setting]

    best = start
    for _ in range(MAX_SWEEPS):
        before = best
        for name, values in choices.items():
            best = min((best, *(with_value(best, name, value) for value in values)), key=of)
        if best == before:
            break
    return best


def with_value(setting: Setting, parameter: str, value: float) -> Setting:
    """The same setting with another value of one parameter."""
    values: dict[str, Any] = {parameter: int(value) if parameter in ("d_max", "w_max") else float(value)}
    return replace(setting, **values)


def sensitivity(data: StudyData, base: Setting, choices: Mapping[str, Sequence[float]]) -> list[StudyPoint]:
    """The base, and every value of every parameter while the others stay at the base's."""
    points = [data.point("base", "base", base)]
    for name, values in choices.items():
        points += [data.point(f"{name} {value:g}", name, with_value(base, name, value)) for value in sorted(values)]
    return points


@dataclass(frozen=True, slots=True)
class Ablation:
    """One part taken away, with the base's threshold and with one that was chosen for what is left."""

    fixed: StudyPoint
    tuned: StudyPoint


def ablation(
    data: StudyData, base: Setting, thresholds: Sequence[float], longest: int, compression: str
) -> list[Ablation]:
    """The base, and the base without each of its parts.

    Args:
        thresholds: those to choose from for what is left.
        longest: width that stands for none: no continuation is longer.
    """
    parts = {
        "all parts": base,
        "without annealing": replace(base, alpha=0.0),
        "without the depth bound": replace(base, d_max=max(base.exit_layers)),
        "without the width bound": replace(base, w_max=longest),
    }
    rows = []
    for label, setting in parts.items():
        tuned = best_setting(setting, {"threshold": thresholds}, data.seconds)
        rows.append(Ablation(data.point(label, label, setting), data.point(label, label, tuned)))

    def recomputing(setting: Setting, batch: TraceBatch) -> ReplayResult:
        return replay_recomputing(batch.traces, setting, data.costs, data.num_layers, compression)

    label = "without kept hidden states"
    tuned = best_setting(
        base, {"threshold": thresholds}, lambda each: float(recomputing(each, data.searched).seconds.sum())
    )
    fixed, chosen = (data.point(label, label, each, recomputing(each, data.judged)) for each in (base, tuned))
    return [*rows, Ablation(fixed, chosen)]


def replay_recomputing(
    traces: Sequence[PromptTrace], setting: Setting, costs: CostTable, num_layers: int, compression: str
) -> ReplayResult:
    """Replay where verification runs all layers of all its tokens again, as if drafting had kept no hidden state."""
    kept = replay(traces, setting.policy(), costs, num_layers, compression, keep_records=True)
    assert kept.records is not None  # they were asked for
    deepest = max((exit_layer for exit_layer, _ in setting.decision().exits()), default=0)
    records = [[recomputed(record, num_layers, deepest) for record in of_prompt] for of_prompt in kept.records]
    work = np.array([sum((record_work(r, False) for r in rows), np.zeros(kept.work.shape[1])) for rows in records])
    return replace(
        kept,
        num_layer_calls=np.array([sum(record.num_layer_calls for record in rows) for rows in records]),
        work=work,
        seconds=costs.seconds(work),
        estimates=None,
        records=None,
    )


def recomputed(record: StepRecord, num_layers: int, deepest: int) -> StepRecord:
    """The same step where verification starts from the embeddings.

    deepest: deepest exit that is read; where a draft ended without one, the last token and all before it stand there.
    """
    depth = deepest if record.stop_reason == "depth" else 0
    depths = [depth]
    for exit_layer in reversed(record.exit_layers):
        depth = max(depth, exit_layer)
        depths.append(depth)
    calls = Counter(dict(record.layer_calls_by_rows))
    for layer in range(num_layers):
        rows = sum(each <= layer for each in depths)
        if rows:
            calls[rows] -= 1
    assert min(calls.values()) >= 0  # the step did make these calls
    calls[len(depths)] += num_layers
    return replace(record, layer_calls_by_rows={rows: count for rows, count in calls.items() if count})
