"""Replays a policy on recorded traces: tokens, steps, work and modelled seconds, without the model.

Every number but the seconds is a count; the seconds are the cost table's. The token that prefill yields belongs to
no step and prefill's time is left out, so a speedup by replay is one of decoding alone. Work after the first wrong
draft of a step is an estimate (see `simulate_step`).
"""

# B prompts, W work counts

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import nan

import numpy as np

from specbound_controller.costs import WORK_NAMES, CostTable
from specbound_controller.features import FeatureState
from specbound_controller.policy import Policy
from specbound_controller.records import Decision, StepRecord
from specbound_controller.work import record_work
from specbound_profiling.outcomes import TraceBatch, step_outcomes
from specbound_profiling.simulate import simulate_step
from specbound_profiling.trace import PromptTrace

PLAIN = Decision(w_max=0)
"""Plain decoding."""


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
    records: tuple[tuple[StepRecord, ...], ...] | None = None
    """Step records per prompt, where asked for."""

    @property
    def tokens_per_second(self) -> float:
        """Modelled decoding speed."""
        return _ratio(self.num_tokens, self.seconds)

    @property
    def tokens_per_step(self) -> float:
        """Mean tokens emitted per step; 1 for plain decoding."""
        return _ratio(self.num_tokens, self.num_steps)

    @property
    def acceptance_rate(self) -> float:
        """Accepted over drafted tokens."""
        return _ratio(self.num_accepted, self.num_drafted)

    @property
    def layer_calls_per_token(self) -> float:
        """Layer calls over tokens emitted in steps; L for plain decoding."""
        return _ratio(self.num_layer_calls, self.num_tokens)

    def speedup_over(self, plain: "ReplayResult") -> float:
        """Tokens per second over another replay's."""
        return self.tokens_per_second / plain.tokens_per_second


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> float:
    total = float(denominator.sum())
    return float(numerator.sum()) / total if total else nan


def replay(
    traces: Iterable[PromptTrace],
    policy: Policy,
    costs: CostTable,
    num_layers: int,
    compression: str,
    keep_records: bool = False,
) -> ReplayResult:
    """Drives any policy step by step over the traces, exactly as the decoder does: reset, decide, observe.

    The policy sees the step features where it asks for them, and every step record after the step.
    """
    state, rows, all_records = FeatureState(compression), [], []
    chosen = []
    for trace in traces:
        policy.reset()
        state.reset(trace.prompt_length + 1)
        records, work, start = [], np.zeros(len(WORK_NAMES)), 1
        while start < trace.num_positions:
            features = state.vector() if policy.needs_features else None
            decision = policy.decide(features)
            record = simulate_step(trace, start, decision, features, num_layers, policy.needs_full_signals)
            policy.observe(record)
            state.update(record)
            records.append(record)
            work += record_work(record, policy.needs_features)
            start += record.num_emitted
        rows.append((trace.num_positions - 1, *_totals(records), work))
        chosen.append((trace.prompt_id, trace.task))
        if keep_records:
            all_records.append(tuple(records))
    return _result(chosen, rows, costs, tuple(all_records) if keep_records else None)


def _totals(records: Sequence[StepRecord]) -> tuple[int, int, int, int]:
    return (
        len(records),
        sum(r.num_drafted for r in records),
        sum(r.num_accepted for r in records),
        sum(r.num_layer_calls for r in records),
    )


def _result(
    prompts: list[tuple[str, str]],
    rows: list[tuple[int, int, int, int, int, np.ndarray]],
    costs: CostTable,
    records: tuple[tuple[StepRecord, ...], ...] | None,
) -> ReplayResult:
    num_tokens, num_steps, num_drafted, num_accepted, num_layer_calls = (
        np.array([row[:5] for row in rows], dtype=np.int64).reshape(-1, 5).T
    )
    work = np.array([row[5] for row in rows]).reshape(len(rows), len(WORK_NAMES))
    return ReplayResult(
        prompt_ids=tuple(prompt_id for prompt_id, _ in prompts),
        tasks=tuple(task for _, task in prompts),
        num_tokens=num_tokens,
        num_steps=num_steps,
        num_drafted=num_drafted,
        num_accepted=num_accepted,
        num_layer_calls=num_layer_calls,
        work=work,
        seconds=costs.seconds(work),
        records=records,
    )


def replay_static(
    traces: Sequence[PromptTrace] | TraceBatch,
    decision: Decision,
    costs: CostTable,
    num_layers: int,
    scores: np.ndarray | None = None,
) -> ReplayResult:
    """`replay` of a policy that always decides the same, vectorised over the prompts.

    scores: as in `step_outcomes`. A fixed decision costs no decision time.
    """
    batch = traces if isinstance(traces, TraceBatch) else TraceBatch(traces)
    outcomes = step_outcomes(batch, decision, num_layers, scores)
    counts = np.column_stack([outcomes.num_drafted, outcomes.num_accepted, outcomes.num_layer_calls, outcomes.work])
    totals, num_steps = np.zeros((len(batch.traces), counts.shape[1])), np.zeros(len(batch.traces), dtype=np.int64)
    row = batch.first_row + 1
    running = np.flatnonzero(row < batch.end_row)
    while len(running):
        totals[running] += counts[row[running]]
        num_steps[running] += 1
        row[running] += outcomes.num_emitted[row[running]]
        running = running[row[running] < batch.end_row[running]]
    num_drafted, num_accepted, num_layer_calls = totals[:, :3].astype(np.int64).T
    return ReplayResult(
        prompt_ids=tuple(t.prompt_id for t in batch.traces),
        tasks=tuple(t.task for t in batch.traces),
        num_tokens=batch.end_row - batch.first_row - 1,
        num_steps=num_steps,
        num_drafted=num_drafted,
        num_accepted=num_accepted,
        num_layer_calls=num_layer_calls,
        work=totals[:, 3:],
        seconds=costs.seconds(totals[:, 3:]),
    )
