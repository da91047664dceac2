"""From timings and observations to the rows of a report. Knows no model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from specbound.bench.efficiency import Breakdown
from specbound.bench.observe import Observation
from specbound.decoding.stats import DecodeStats
from specbound.evaluation.rows import Evaluation
from specbound.evaluation.timing import Timing
from specbound.results.rows import Row, equality, shown
from specbound_controller.figures import number, share, times
from specbound_controller.ratio import ratio


@dataclass(frozen=True, slots=True)
class BenchRow(Row):
    """A row of a report, and what only a benchmark asks for."""

    setting: str = ""
    """What was chosen for the method on the tuning prompts; empty where nothing was."""
    time_to_first_token_s: float = shown(
        "first token\nms", lambda row: number(row.time_to_first_token_s * 1e3, 1), is_wide=True
    )
    """Mean over the prompts, seconds from call to the first token; transformers' on runs of their own."""
    layer_rows_per_token: float = shown(
        "rows\nper token", lambda row: number(row.layer_rows_per_token, 1), is_wide=True
    )
    """Rows of layer calls over tokens, those of the prompt left out."""
    model_share: float = shown("model's\nshare", lambda row: share(row.model_share), is_wide=True)
    """Layer and head calls at the cost table's prices over measured seconds of the same steps: our methods only."""
    peak_memory_bytes: int | None = shown("peak\nMiB", lambda row: mebibytes(row.peak_memory_bytes), None, is_wide=True)
    """Largest over the prompts; of the GPU's allocator, or of the whole process on a CPU."""
    overhead_share: float = math.nan
    """What is left: the loop, the exit tests, the decisions, and what the cost table does not see."""
    speed_ratio: float = math.nan
    """Tokens per second over the reference's, claimed or not; no speedup where outputs differ."""
    is_synthetic: bool = False
    """Whether the model is random and its acceptance was set."""
    speedup: float = shown("speedup", lambda row: claimed(row))
    """Tokens per second over the reference's: the faster of plain decoding and transformers' generate."""
    outputs_equal: bool | None = shown("outputs\nequal", lambda row: equality(row, unknown="own draw"), None)
    """Whether every output equals plain decoding's; None where a method draws tokens of its own."""

    def without_speedup(self) -> Self:
        """The same row where the machine was too busy to say how fast anything is."""
        return replace(Row.without_speedup(self), speed_ratio=math.nan)  # super() knows no class with slots


def claimed(row: BenchRow) -> str:
    """The speedup, or in parentheses the ratio of speeds of which nothing is claimed."""
    is_unclaimed = math.isnan(row.speedup) and not math.isnan(row.speed_ratio)
    return f"({row.speed_ratio:.2f}x)" if is_unclaimed else times(row.speedup)


def mebibytes(size: int | None) -> str:
    return "–" if size is None else f"{size / 2**20:.0f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Level(Evaluation):
    """All methods that ran on the same kernels, and what was seen of them."""

    observations: Mapping[str, Sequence[Observation]]
    settings: Mapping[str, str]
    breakdowns: Mapping[str, Breakdown]
    """Of our methods."""
    without_promise: frozenset[str] = frozenset()
    """Methods that draw tokens of their own: nothing is to be equal, and they are compared in speed alone, since their
    distribution is what they promise."""
    is_synthetic: bool = False

    def rows(self) -> list[BenchRow]:
        """Every method on every kind of content, totals last."""
        return [self._row(method, task) for task in self.tasks for method in self.timings]

    def _row(self, method: str, task: str) -> BenchRow:
        indices = self.indices(task)
        timings = [self.timings[method][i] for i in indices]
        seen = [self.observations[method][i] for i in indices]
        total = sum((observation.stats for observation in seen), DecodeStats())
        speed = self.speed_ratio(method, self.reference, indices)
        is_claimed, is_reference = self.is_close(method), method == self.reference
        differing = self.differing(method, indices)
        found = self.breakdowns.get(method) if task == "all" else None
        peaks = [observation.peak_bytes for observation in seen]
        return BenchRow.of(
            total,
            method=method,
            compression=self.compression,
            task=task,
            num_prompts=len(indices),
            num_tokens=int(self.tokens(method, indices).sum()),
            tokens_per_second=self.speed(method, indices),
            speedup=speed.ratio if is_claimed else math.nan,
            speedup_low=speed.low if is_claimed and not is_reference else math.nan,
            speedup_high=speed.high if is_claimed and not is_reference else math.nan,
            outputs_equal=None if method in self.without_promise else not differing,
            num_near_ties=sum(difference.is_near_tie for difference in differing),
            exactness=self.exactness,
            setting=self.settings.get(method, ""),
            time_to_first_token_s=float(np.mean([_first_token_s(*each) for each in zip(timings, seen, strict=True)])),
            layer_rows_per_token=ratio(sum(each.num_layer_rows for each in seen), total.num_step_tokens),
            peak_memory_bytes=max((peak for peak in peaks if peak is not None), default=None),
            model_share=math.nan if found is None else found.efficiency,
            overhead_share=math.nan if found is None else found.overhead_share,
            speed_ratio=speed.ratio,
            is_synthetic=self.is_synthetic,
        )


def _first_token_s(timing: Timing, observation: Observation) -> float:
    """Of the timed runs where they say it."""
    return timing.prefill_seconds if timing.prefill_runs_s else observation.first_token_s
