"""Totals of a replay, prompt by prompt, and what of them is an estimate. Knows no policy and no trace's content.

Seconds are a cost table's. Work after the first wrong draft of a step is an estimate where no roll-out followed it;
the roll-outs that were recorded say how far such estimates are off.
"""

# B prompts, W work counts, R visited steps

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import nan, sqrt

import numpy as np

from specbound.decoding.stats import DecodeStats
from specbound_controller.costs import ROW_KNOTS, CostTable
from specbound_controller.ratio import ratio
from specbound_controller.records import StepRecord
from specbound_profiling.log.trace import PromptTrace


@dataclass(frozen=True, slots=True, eq=False)
class Estimates:
    """What of the modelled seconds is an estimate. A step is checked where a roll-out makes exact what would otherwise
    be estimated: the estimate is made there too, and compared."""

    num_steps: np.ndarray
    """Steps that hold an estimate. (B,) int64"""
    seconds: np.ndarray
    """Estimated seconds in them. (B,) float64"""
    num_checked: np.ndarray
    """(B,) int64"""
    error_s: np.ndarray
    """Sum over checked steps of estimate less truth. (B,) float64"""
    squared_error_s2: np.ndarray
    """Sum of its squares. (B,) float64"""

    def standard_error(self) -> float:
        """Of all estimated seconds together: bias and spread of the checked steps, carried over to those that are not.

        0 where nothing is estimated, nan where fewer than two steps were checked.
        """
        num_steps, num_checked = int(self.num_steps.sum()), int(self.num_checked.sum())
        if num_steps == 0:
            return 0.0
        if num_checked < 2:
            return nan
        bias = float(self.error_s.sum()) / num_checked
        variance = max(0.0, float(self.squared_error_s2.sum()) / num_checked - bias**2) * num_checked
        variance /= num_checked - 1
        return sqrt(num_steps * variance + num_steps**2 * (bias**2 + variance / num_checked))


@dataclass(frozen=True, slots=True, eq=False)
class ReplayResult:
    """Totals per prompt. Counts are kept, divided last; a zero denominator gives nan."""

    prompt_ids: tuple[str, ...]
    """(B,)"""
    tasks: tuple[str, ...]
    """(B,)"""
    num_tokens: np.ndarray
    """Tokens emitted in steps: all but the first of each continuation. (B,) int64"""
    num_steps: np.ndarray
    """(B,) int64"""
    num_drafted: np.ndarray
    """(B,) int64"""
    num_accepted: np.ndarray
    """(B,) int64"""
    num_layer_calls: np.ndarray
    """(B,) int64"""
    work: np.ndarray
    """In the order of `WORK_NAMES`. (B, W) float64"""
    seconds: np.ndarray
    """Modelled seconds of decoding. (B,) float64"""
    estimates: Estimates | None = None
    """None where nothing can be: oracles draft no wrong token."""
    records: tuple[tuple[StepRecord, ...], ...] | None = None
    """Step records per prompt, where asked for."""
    features: tuple[np.ndarray, ...] | None = None
    """The step features (steps, F) float32 that the policy was shown, per prompt, where records were asked for and the
    policy asks for features."""

    @property
    def counts(self) -> DecodeStats:
        """The totals of all prompts, of which figures are made; seconds are modelled, and none of them prefill's."""
        num_tokens, seconds = int(self.num_tokens.sum()), float(self.seconds.sum())
        steps, drafted, accepted = (int(each.sum()) for each in (self.num_steps, self.num_drafted, self.num_accepted))
        calls = int(self.num_layer_calls.sum())
        return DecodeStats(num_tokens, steps, num_tokens, drafted, accepted, calls, seconds)

    @property
    def tokens_per_second(self) -> float:
        """Modelled decoding speed."""
        return self.counts.tokens_per_second

    @property
    def tokens_per_step(self) -> float:
        """Mean tokens emitted per step; 1 for plain decoding."""
        return self.counts.tokens_per_step

    @property
    def acceptance_rate(self) -> float:
        """Accepted over drafted tokens."""
        return self.counts.acceptance_rate

    @property
    def layer_calls_per_token(self) -> float:
        """Layer calls over tokens emitted in steps; L for plain decoding."""
        return self.counts.layer_calls_per_token

    @property
    def estimated_share(self) -> float:
        """Estimated seconds over all; 0 where nothing is estimated."""
        return 0.0 if self.estimates is None else ratio(self.estimates.seconds.sum(), self.seconds.sum())

    @property
    def estimated_share_error(self) -> float:
        """Standard error of the estimated seconds, over all seconds; nan where it is not known."""
        if self.estimates is None:
            return 0.0
        return ratio(self.estimates.standard_error(), self.seconds.sum())

    def speedup_over(self, plain: "ReplayResult") -> float:
        """Tokens per second over another replay's."""
        return self.tokens_per_second / plain.tokens_per_second

    def only(self, indices: Sequence[int]) -> "ReplayResult":
        """The totals of some prompts."""
        chosen = np.asarray(indices, dtype=np.int64)
        pick = {f.name: getattr(self, f.name)[chosen] for f in fields(self) if f.name in _ARRAYS}
        estimates = self.estimates
        return ReplayResult(
            prompt_ids=tuple(self.prompt_ids[i] for i in chosen),
            tasks=tuple(self.tasks[i] for i in chosen),
            estimates=None if estimates is None else Estimates(*(getattr(estimates, n)[chosen] for n in _ESTIMATES)),
            records=None if self.records is None else tuple(self.records[i] for i in chosen),
            features=None if self.features is None else tuple(self.features[i] for i in chosen),
            **pick,
        )


_ARRAYS = ("num_tokens", "num_steps", "num_drafted", "num_accepted", "num_layer_calls", "work", "seconds")
_ESTIMATES = tuple(field.name for field in fields(Estimates))


def concatenated(results: Sequence[ReplayResult]) -> ReplayResult:
    """Replays of one policy on parts of a log as one."""
    arrays = {name: np.concatenate([getattr(result, name) for result in results]) for name in _ARRAYS}
    estimates = [result.estimates for result in results if result.estimates is not None]
    records = [result.records for result in results if result.records is not None]
    features = [result.features for result in results if result.features is not None]
    whole = len(results)
    return ReplayResult(
        prompt_ids=tuple(name for result in results for name in result.prompt_ids),
        tasks=tuple(task for result in results for task in result.tasks),
        estimates=_joined(estimates) if len(estimates) == whole else None,
        records=tuple(steps for part in records for steps in part) if len(records) == whole else None,
        features=tuple(shown for part in features for shown in part) if len(features) == whole else None,
        **arrays,
    )


def _joined(parts: Sequence[Estimates]) -> Estimates:
    return Estimates(*(np.concatenate([getattr(part, name) for part in parts]) for name in _ESTIMATES))


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """All steps of a replay, in any order, each with what it did."""

    prompt: np.ndarray
    """Index of the prompt. (R,) int64"""
    num_drafted: np.ndarray
    """(R,) int64"""
    num_accepted: np.ndarray
    """(R,) int64"""
    num_layer_calls: np.ndarray
    """(R,) int64"""
    work: np.ndarray
    """(R, W) float64"""
    estimated_s: np.ndarray | None = None
    """Estimated seconds of each step, nan where it holds no estimate. (R,) float64"""
    estimate_error_s: np.ndarray | None = None
    """Estimate less truth where a step was checked, else nan. (R,) float64"""

    def totals(
        self,
        traces: Sequence[PromptTrace],
        costs: CostTable,
        records: tuple[tuple[StepRecord, ...], ...] | None = None,
    ) -> ReplayResult:
        """The sums over each prompt, priced."""

        def count(values: np.ndarray | None = None) -> np.ndarray:
            return np.bincount(self.prompt, values, minlength=len(traces))

        work = np.column_stack([count(column) for column in self.work.T]) if len(self.prompt) else None
        work = np.zeros((len(traces), self.work.shape[1])) if work is None else work
        return ReplayResult(
            prompt_ids=tuple(trace.prompt_id for trace in traces),
            tasks=tuple(trace.task for trace in traces),
            num_tokens=np.array([trace.num_positions - 1 for trace in traces], dtype=np.int64),
            num_steps=count(),
            num_drafted=count(self.num_drafted).astype(np.int64),
            num_accepted=count(self.num_accepted).astype(np.int64),
            num_layer_calls=count(self.num_layer_calls).astype(np.int64),
            work=work,
            seconds=costs.seconds(work),
            estimates=self._estimates(len(traces)),
            records=records,
        )

    def _estimates(self, num_prompts: int) -> Estimates | None:
        if self.estimated_s is None or self.estimate_error_s is None:
            return None
        is_estimated, is_checked = ~np.isnan(self.estimated_s), ~np.isnan(self.estimate_error_s)
        errors = self.estimate_error_s[is_checked]

        def count(chosen: np.ndarray, values: np.ndarray | None = None) -> np.ndarray:
            return np.bincount(self.prompt[chosen], values, minlength=num_prompts)

        return Estimates(
            num_steps=count(is_estimated),
            seconds=count(is_estimated, self.estimated_s[is_estimated]),
            num_checked=count(is_checked),
            error_s=count(is_checked, errors),
            squared_error_s2=count(is_checked, errors**2),
        )


def num_layer_calls(work: np.ndarray) -> np.ndarray:
    """Layer calls of work vectors: what they count at all numbers of rows together. (R, W) -> (R,) int64"""
    calls: np.ndarray = np.rint(work[:, : len(ROW_KNOTS)].sum(axis=1)).astype(np.int64)
    return calls
