"""Measures what work costs on this machine: live steps with random decisions, and non-negative least squares.

Whole steps are timed, not kernels, so that the table holds what a step really costs, overhead included. On one CPU
thread the clock is that thread's CPU time, which other programs on the machine hardly lengthen; elsewhere it is the
wall clock. Exit tests and decisions are so small beside a step that its noise would hide them: they are timed alone,
and the rest is fitted.
"""

# S steps, W work counts

import itertools
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from specbound.decoding.adapter import ModelAdapter
from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.request import greedy_twin
from specbound.decoding.step import read_signals
from specbound.loading import LoadedModel
from specbound_controller.costs import ROW_BUCKETS, WORK_NAMES, CostTable
from specbound_controller.features import FEATURE_NAMES, FeatureState
from specbound_controller.policy import AnnealedConfidence
from specbound_controller.records import Decision, StepRecord
from specbound_controller.work import record_work
from specbound_profiling.config import auto_exit_layers
from specbound_profiling.machine import machine_fingerprint

MIN_STEPS = 30
"""Fewest steps that a table is fitted on."""
TOKENS_PER_PROMPT = 64
HELD_OUT_EVERY = 5
"""Every so many-th step is left out of the fit and judges it."""
WIDTHS, WIDTH_SHARES = ((0, 0), (1, 8), (9, 15), (16, 31)), (0.2, 0.7, 0.07, 0.03)
"""Ranges of the random widths and how often each is taken: every row bucket has to occur."""
NUM_TIMINGS = 300
"""Repetitions of what is timed alone; the median counts."""
NUM_HIDDEN = 32
"""Hidden units of the stand-in for a controller's decision."""


class RandomPolicy:
    """Random exits, widths and thresholds, so that every kind of work occurs in every mixture.

    With features it also computes a perceptron of a controller's size, so that a decision has its price.
    """

    def __init__(self, exit_layers: Sequence[int], has_features: bool, seed: int) -> None:
        self.needs_features = self.needs_full_signals = has_features
        self._exit_layers = tuple(exit_layers)
        self._rng = np.random.default_rng(seed)
        shape = (NUM_HIDDEN, len(FEATURE_NAMES))
        self._weights = self._rng.normal(size=shape).astype(np.float32), np.ones((64, NUM_HIDDEN), dtype=np.float32)

    def reset(self) -> None:
        """Nothing to forget."""

    def decide(self, features: np.ndarray | None) -> Decision:
        """A decision that nothing decides."""
        if features is not None:
            self.best_action(features)
        rng = self._rng
        bounds = WIDTHS[int(rng.choice(len(WIDTHS), p=WIDTH_SHARES))]
        width = int(rng.integers(*bounds, endpoint=True))
        num_exits = min(len(self._exit_layers), 2 if rng.random() < 0.3 else 1)
        exits = sorted(rng.choice(self._exit_layers, size=num_exits, replace=False).tolist())
        thresholds = {e: float(rng.choice([0.0, rng.uniform(0.05, 0.9)])) for e in exits}
        return Decision(width, thresholds, AnnealedConfidence(0.5))

    def best_action(self, features: np.ndarray) -> int:
        """What a controller computes, with weights that mean nothing."""
        return int((self._weights[1] @ np.tanh(self._weights[0] @ features)).argmax())

    def observe(self, record: StepRecord) -> None:
        """Nothing to learn."""


def measure_costs(
    loaded: LoadedModel,
    prompt_ids: Sequence[Tensor],
    num_steps: int = 300,
    seed: int = 0,
    max_seconds: float = 30.0,
    exit_layers: Sequence[int] | None = None,
) -> CostTable:
    """Times live steps on some prompts, again and again, and fits the cost table.

    Args:
        prompt_ids: (1, T) each; several lengths make the price of context visible.
        num_steps: steps to time, unless `max_seconds` are over before (at least 30 in any case).
        exit_layers: exits to draft from; None takes `auto_exit_layers`.
    """
    decoder = SpecBoundDecoder(greedy_twin(loaded.model, has_end=False), compression=loaded.compression)
    exits = auto_exit_layers(decoder.adapter.num_layers) if exit_layers is None else tuple(exit_layers)
    policies = [RandomPolicy(exits, has_features, seed) for has_features in (False, True)]
    decoder.policy = policies[0]
    decoder.decode([prompt_ids[0]], max_new_tokens=TOKENS_PER_PROMPT)  # warm-up
    clock = step_clock(decoder.adapter.device)
    work, seconds = [], []
    started = time.perf_counter()
    marks: list[float] = []

    def mark(record: StepRecord, row: int) -> None:
        marks.append(clock())

    for ids, policy in zip(itertools.cycle(prompt_ids), itertools.cycle(policies), strict=False):
        decoder.policy = policy
        marks.clear()
        output = decoder.decode([ids], max_new_tokens=TOKENS_PER_PROMPT, on_step=mark)
        work += [
            record_work(record, policy.needs_features) for record in output.stats.steps[1:]
        ]  # the first began in prefill
        seconds += np.diff(marks).tolist()
        is_late = time.perf_counter() - started > max_seconds
        if len(seconds) >= num_steps or (is_late and len(seconds) >= MIN_STEPS):
            break
    alone = {
        "exit_tests": exit_test_seconds(decoder.adapter, clock),
        "decisions": decision_seconds(policies[1], loaded.compression, clock),
    }
    fingerprint = machine_fingerprint(decoder.adapter.device)
    return fit_costs(np.array(work), np.array(seconds), loaded.compression, fingerprint, alone)


def step_clock(device: torch.device) -> Callable[[], float]:
    """The thread's CPU time where one CPU thread does all the work, else the wall clock. Seconds."""
    return time.thread_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


@torch.inference_mode()
def exit_test_seconds(adapter: ModelAdapter, clock: Callable[[], float]) -> float:
    """What taking an exit's statistics costs beyond the bare arg max, timed alone."""
    logits = torch.randn(1, adapter.vocab_size, device=adapter.device, dtype=adapter.dtype)
    with_test = _median_seconds(lambda: read_signals(logits, 1, 0, 1.3), clock)
    return max(0.0, with_test - _median_seconds(lambda: int(logits.argmax(-1)), clock))


def decision_seconds(policy: RandomPolicy, compression: str, clock: Callable[[], float]) -> float:
    """What features and a perceptron of a controller's size cost, timed alone."""
    state = FeatureState(compression)
    record = StepRecord(
        9, 3, 2, 3, (1,) * 3, (0.5,) * 3, (0.5,) * 3, (0.5,) * 3, "width", {1: 9}, {1: 4}, 3, 0.5, 1.0, 1.0
    )

    def decide() -> None:
        state.update(record)
        policy.best_action(state.vector())

    return _median_seconds(decide, clock)


def _median_seconds(call: Callable[[], object], clock: Callable[[], float]) -> float:
    seconds = []
    for _ in range(NUM_TIMINGS):
        started = clock()
        call()
        seconds.append(clock() - started)
    return float(np.median(seconds))


def fit_costs(
    work: np.ndarray,
    seconds: np.ndarray,
    compression: str,
    machine: str,
    alone: Mapping[str, float] | None = None,
) -> CostTable:
    """Cost table from timed steps; its held-out error comes from steps left out.

    Args:
        work: counts of each step, (S, W).
        seconds: (S,)
        alone: seconds of the kinds of work that were timed alone, by name; the others are fitted to what is left.
    """
    fixed = np.array([np.nan if alone is None else alone.get(name, np.nan) for name in WORK_NAMES])
    is_held_out = np.arange(len(seconds)) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    judged = _fit(work[~is_held_out], seconds[~is_held_out], fixed)
    error = np.abs(work[is_held_out] @ judged - seconds[is_held_out]) / seconds[is_held_out]
    coefficients = _fit(work, seconds, fixed)
    return CostTable(
        coefficients=dict(zip(WORK_NAMES, coefficients.tolist(), strict=True)),
        compression=compression,
        machine=machine,
        held_out_error=float(np.median(error)),
        num_steps=len(seconds),
    )


def _fit(work: np.ndarray, seconds: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """Least relative squares with prices >= 0, no cheaper calls with more rows, and some prices given. (W,)

    Steps that something else on the machine interrupted are left out: those far above the bulk of the residuals.
    """
    num_buckets, is_fitted = len(ROW_BUCKETS), np.isnan(fixed)
    to_prices = np.eye(work.shape[1])
    # price of a bucket = sum of the increments up to it
    to_prices[:num_buckets, :num_buckets] = np.tril(np.ones((num_buckets, num_buckets)))
    given = np.where(is_fitted, 0.0, fixed)
    columns, left = (work @ to_prices)[:, is_fitted], seconds - work @ given
    keep = np.ones(len(seconds), dtype=bool)
    for _ in range(4):
        weight = 1.0 / seconds[keep]
        increments, _ = nnls(columns[keep] * weight[:, None], left[keep] * weight)
        prices = to_prices[:, is_fitted] @ increments + given
        residual = seconds / np.maximum(work @ prices, 1e-12) - 1.0
        spread = 1.4826 * np.median(np.abs(residual - np.median(residual)))
        keep = residual <= np.median(residual) + 3.0 * max(spread, 1e-6)
    return _with_unseen_buckets(prices, work)


def _with_unseen_buckets(prices: np.ndarray, work: np.ndarray) -> np.ndarray:
    """Row buckets that no step used cost what proportion to the rows says, so that nothing is free. (W,)"""
    prices = prices.copy()
    for bucket in range(1, len(ROW_BUCKETS)):
        if not work[:, bucket].any():
            prices[bucket] = prices[bucket - 1] * ROW_BUCKETS[bucket] / ROW_BUCKETS[bucket - 1]
    return prices
