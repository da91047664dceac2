"""Replays a policy on recorded traces: tokens, steps, work and modelled seconds, without the model.

Every number but the seconds is a count; the seconds are the cost table's. The token that prefill yields belongs to
no step and prefill's time is left out, so a speedup by replay is one of decoding alone. Work after the first wrong
draft of a step is an estimate where no roll-out followed that draft (see `simulate`).
"""

# B prompts, N rows, R visited steps, W work counts

from collections.abc import Iterable, Sequence
from dataclasses import replace as with_changes
from math import nan

import numpy as np

from specbound_controller.costs import WORK_NAMES, CostTable
from specbound_controller.features import FEATURE_NAMES, FeatureState
from specbound_controller.lookup import LOOKUP_EXIT
from specbound_controller.policy import Policy, decides_in_batches
from specbound_controller.records import Decision, StepRecord
from specbound_controller.trees.policy import TreePolicy
from specbound_controller.work import record_work
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.replay.batch import replay_batch
from specbound_profiling.replay.exit_tables import is_single_exit
from specbound_profiling.replay.outcomes import StepOutcomes, has_outcomes, step_outcomes
from specbound_profiling.replay.result import ReplayResult, Steps
from specbound_profiling.replay.simulate import SimulatedStep, simulate
from specbound_profiling.replay.trace_batch import TraceBatch
from specbound_profiling.replay.tree_steps import replay_plan
from specbound_profiling.replay.trees import TreeReplay

PLAIN = Decision(w_max=0)
"""Plain decoding."""


def replay(
    traces: Iterable[PromptTrace],
    policy: Policy,
    costs: CostTable,
    num_layers: int,
    compression: str,
    keep_records: bool = False,
) -> ReplayResult:
    """What a policy would have done on the traces.

    A policy that can decide for many prompts at once does; any other, and where records are to be kept, is driven step
    by step exactly as the decoder drives it: reset, decide, observe. It sees the step features where it asks for them,
    and every step record after the step.
    """
    traces = list(traces)
    if traces and not keep_records and decides_in_batches(policy):
        if len(policy.decisions) == 1 and not policy.needs_features and has_outcomes(policy.decisions[0]):
            return replay_static(traces, policy.decisions[0], costs, num_layers)
        if all(map(is_single_exit, policy.decisions)):
            return replay_batch(TraceBatch(traces), policy, costs, num_layers, compression)
    if not keep_records and isinstance(policy, TreePolicy) and policy.plan.exit_layer == LOOKUP_EXIT:
        return replay_plan(traces, policy.plan, costs, num_layers)
    return replay_stepwise(traces, policy, costs, num_layers, compression, keep_records)


def replay_stepwise(
    traces: Sequence[PromptTrace],
    policy: Policy,
    costs: CostTable,
    num_layers: int,
    compression: str,
    keep_records: bool = False,
) -> ReplayResult:
    """`replay`, one prompt after another and one step after another: the reference."""
    state, all_records, all_features = FeatureState(compression), [], []
    prompts, work, estimated, errors = [], [], [], []
    for index, trace in enumerate(traces):
        policy.reset()
        state.reset(trace.prompt_length + 1, trace.sampling_temperature)
        records, shown, start, trees = [], [], 1, None
        bare = None if trace.branches is None else trace.without_rollouts()
        while start < trace.num_positions:
            features = state.vector(trace.lookup_at(start)) if policy.needs_features else None
            decision = policy.decide(features)
            if decision.tree is not None:
                trees = TreeReplay(trace, num_layers) if trees is None else trees
                step = trees.step(start, decision, policy.needs_full_signals)
            else:
                step = simulate(trace, start, decision, features, num_layers, policy.needs_full_signals)
            record = step.record
            is_adaptive = policy.needs_features
            work.append(record_work(record, is_adaptive))
            estimated.append(nan if step.is_exact else _difference_s(record, step.known, is_adaptive, costs))
            error = nan
            if bare is not None and _followed_branch(trace, start, step):
                guess = simulate(bare, start, decision, features, num_layers, policy.needs_full_signals)
                error = nan if guess.is_exact else _difference_s(guess.record, record, is_adaptive, costs)
            errors.append(error)
            policy.observe(record)
            state.update(record)
            records.append(record)
            if features is not None:
                shown.append(features)
            start += record.num_emitted
        prompts += [index] * len(records)
        all_records.append(tuple(records))
        all_features.append(np.array(shown, dtype=np.float32).reshape(len(shown), len(FEATURE_NAMES)))
    flat = [record for records in all_records for record in records]
    steps = Steps(
        prompt=np.array(prompts, dtype=np.int64),
        num_drafted=np.array([r.num_drafted for r in flat], dtype=np.int64),
        num_accepted=np.array([r.num_accepted for r in flat], dtype=np.int64),
        num_layer_calls=np.array([r.num_layer_calls for r in flat], dtype=np.int64),
        work=np.array(work).reshape(len(flat), len(WORK_NAMES)),
        estimated_s=np.array(estimated, dtype=float),
        estimate_error_s=np.array(errors, dtype=float),
    )
    result = steps.totals(traces, costs, tuple(all_records) if keep_records else None)
    if keep_records and policy.needs_features:
        result = with_changes(result, features=tuple(all_features))
    return result


def _difference_s(more: StepRecord, less: StepRecord, is_adaptive: bool, costs: CostTable) -> float:
    """Modelled seconds of one step less another's."""
    return float(costs.seconds(record_work(more, is_adaptive) - record_work(less, is_adaptive)))


def _followed_branch(trace: PromptTrace, start: int, step: SimulatedStep) -> bool:
    """Whether a roll-out made the step exact."""
    record = step.record
    if trace.branches is None or record.sources or not step.is_exact or record.num_accepted >= record.num_drafted:
        return False
    return (start + record.num_accepted, record.exit_layers[record.num_accepted]) in trace.branches.rows


def replay_static(
    traces: Sequence[PromptTrace] | TraceBatch,
    decision: Decision,
    costs: CostTable,
    num_layers: int,
) -> ReplayResult:
    """`replay` of a policy that always decides the same, vectorised over the prompts."""
    batch = traces if isinstance(traces, TraceBatch) else TraceBatch(traces)
    outcomes = step_outcomes(batch, decision, num_layers)
    rows, prompts = visited_rows(batch, outcomes.num_emitted)
    steps = Steps(
        prompt=prompts,
        num_drafted=outcomes.num_drafted[rows],
        num_accepted=outcomes.num_accepted[rows],
        num_layer_calls=outcomes.num_layer_calls[rows],
        work=outcomes.work[rows],
        estimated_s=estimated_seconds(outcomes, costs)[rows],
        estimate_error_s=estimate_errors(batch, decision, outcomes, costs, num_layers)[rows],
    )
    return steps.totals(batch.traces, costs)


def visited_rows(batch: TraceBatch, num_emitted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows at which steps begin, where a step that begins at a row emits so many tokens. (N,) -> (R,) rows, prompts"""
    row, prompts = batch.first_row + 1, np.arange(len(batch.traces))
    all_rows, all_prompts = [], []
    while True:
        runs = row < batch.end_row[prompts]
        row, prompts = row[runs], prompts[runs]
        if not len(row):
            break
        all_rows.append(row)
        all_prompts.append(prompts)
        row = row + num_emitted[row]
    empty = [np.zeros(0, dtype=np.int64)]
    return np.concatenate(empty + all_rows), np.concatenate(empty + all_prompts)


def estimated_seconds(outcomes: StepOutcomes, costs: CostTable) -> np.ndarray:
    """Estimated seconds of a step at each row, nan where nothing is estimated. (N,)"""
    seconds = np.full(len(outcomes.is_exact), nan)
    seconds[~outcomes.is_exact] = costs.seconds(outcomes.estimated_work)
    return seconds


def estimate_errors(
    batch: TraceBatch,
    decision: Decision,
    outcomes: StepOutcomes,
    costs: CostTable,
    num_layers: int,
) -> np.ndarray:
    """Estimate less truth, seconds, at the rows that only a roll-out makes exact; else nan. (N,)"""
    errors = np.full(batch.num_rows, nan)
    if not len(batch.branches.end):
        return errors
    bare = TraceBatch([trace.without_rollouts() for trace in batch.traces])
    guess = step_outcomes(bare, decision, num_layers)
    is_checked = outcomes.is_exact & ~guess.is_exact
    errors[is_checked] = costs.seconds(guess.work[is_checked] - outcomes.work[is_checked])
    return errors
