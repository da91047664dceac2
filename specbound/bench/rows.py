"""From timings and observations to the rows of a report. Knows no model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from specbound.bench.efficiency import Breakdown
from specbound.bench.observe import Observation
from specbound.decoding.stats import DecodeStats
from specbound.evaluation.compare import speed_ratio
from specbound.evaluation.differences import Difference
from specbound.evaluation.rows import MAX_NEAR_TIE_SHARE
from specbound.evaluation.timing import TimedPrompt, Timing
from specbound.results.rows import Row, equality, number, share, shown, times
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


def claimed(row: BenchRow) -> str:
    """The speedup, or in parentheses the ratio of speeds of which nothing is claimed."""
    is_unclaimed = math.isnan(row.speedup) and not math.isnan(row.speed_ratio)
    return f"({row.speed_ratio:.2f}x)" if is_unclaimed else times(row.speedup)


def mebibytes(size: int | None) -> str:
    return "–" if size is None else f"{size / 2**20:.0f}"


@dataclass(frozen=True, slots=True)
class Level:
    """All methods that ran on the same kernels, and what was seen of them."""

    exactness: str
    compression: str
    prompts: Sequence[TimedPrompt]
    timings: Mapping[str, Sequence[Timing]]
    """Method -> one for each prompt; holds `plain`."""
    observations: Mapping[str, Sequence[Observation]]
    settings: Mapping[str, str]
    differences: Sequence[Difference]
    """Outputs that are not plain decoding's, of the methods that promise them to be."""
    breakdowns: Mapping[str, Breakdown]
    """Of our methods."""
    seed: int
    """Of the bootstrap."""
    without_promise: frozenset[str] = frozenset()
    """Methods that draw tokens of their own: nothing is to be equal."""
    is_synthetic: bool = False

    @property
    def tasks(self) -> list[str]:
        """Kinds of content in the order of the prompts, then `all`."""
        return [*dict.fromkeys(prompt.task for prompt in self.prompts), "all"]

    @property
    def reference(self) -> str:
        """What speedups are over: plain decoding, or transformers' generate where that is faster."""
        known = [name for name in ("plain", "transformers") if name in self.timings]
        return max(known, key=lambda name: _speed(self.timings[name]))

    def rows(self) -> list[BenchRow]:
        """Every method on every kind of content, totals last."""
        return [self._row(method, task) for task in self.tasks for method in self.timings]

    def _row(self, method: str, task: str) -> BenchRow:
        indices = [i for i, prompt in enumerate(self.prompts) if task in ("all", prompt.task)]
        timings = [self.timings[method][i] for i in indices]
        seen = [self.observations[method][i] for i in indices]
        total = sum((observation.stats for observation in seen), DecodeStats())
        tokens, seconds = _arrays(timings)
        speed = speed_ratio(tokens, seconds, *_arrays([self.timings[self.reference][i] for i in indices]), self.seed)
        is_claimed, is_reference = self._is_claimable(method), method == self.reference
        ids = {self.prompts[i].prompt_id for i in indices}
        differing = [d for d in self.differences if d.method == method and d.prompt_id in ids]
        found = self.breakdowns.get(method) if task == "all" else None
        peaks = [observation.peak_bytes for observation in seen]
        return BenchRow.of(
            total,
            method=method,
            compression=self.compression,
            task=task,
            num_prompts=len(indices),
            num_tokens=int(tokens.sum()),
            tokens_per_second=float(tokens.sum() / seconds.sum()),
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

    def _is_claimable(self, method: str) -> bool:
        """Whether all outputs are equal, or differ in verified near-ties on few prompts; judged on all prompts.

        Methods that draw their own tokens are compared in speed alone: their distribution is what they promise.
        """
        differing = [d for d in self.differences if d.method == method]
        return all(d.is_near_tie for d in differing) and len(differing) <= MAX_NEAR_TIE_SHARE * len(self.prompts)


def _speed(timings: Sequence[Timing]) -> float:
    tokens, seconds = _arrays(timings)
    return float(tokens.sum() / seconds.sum())


def _arrays(timings: Sequence[Timing]) -> tuple[np.ndarray, np.ndarray]:
    """New tokens and seconds of each prompt. (B,) each"""
    return np.array([float(len(t.tokens)) for t in timings]), np.array([t.seconds for t in timings])


def _first_token_s(timing: Timing, observation: Observation) -> float:
    """Of the timed runs where they say it."""
    return timing.prefill_seconds if timing.prefill_runs_s else observation.first_token_s
