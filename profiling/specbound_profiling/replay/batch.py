"""Replays a policy that decides for many prompts at once: all prompts take their k-th step together.

Equal to `replay`, which drives one prompt after another (a test compares the two, step by step).
"""

# B prompts, R of them that are not at their end

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import nan

import numpy as np

from specbound_controller.costs import WORK_NAMES, CostTable
from specbound_controller.feature_batch import FeatureBatch
from specbound_controller.policy import BatchPolicy
from specbound_controller.step_batch import Choices, StepBatch
from specbound_profiling.replay.result import ReplayResult, Steps, num_layer_calls
from specbound_profiling.replay.single_exit import Draws, SingleExitPlayer, with_policy_work
from specbound_profiling.replay.trace_batch import TraceBatch


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """One step of every prompt that is not at its end."""

    prompts: np.ndarray
    """(R,)"""
    rows: np.ndarray
    """Where their steps begin. (R,)"""
    decision: np.ndarray
    """Index into the policy's decisions. (R,)"""
    steps: StepBatch
    """What they did, the policy's own work included."""
    estimated_s: np.ndarray
    """Estimated seconds, nan where all is known. (R,)"""
    estimate_error_s: np.ndarray
    """Estimate less truth where only a roll-out makes a step exact, else nan. (R,)"""


def replay_batch(
    batch: TraceBatch,
    policy: BatchPolicy,
    costs: CostTable,
    num_layers: int,
    compression: str,
    checks_estimates: bool = True,
) -> ReplayResult:
    """`replay` of a policy whose decisions draft at one exit each (`single_exit.is_single_exit`).

    checks_estimates: whether what was estimated is compared with what roll-outs say, which takes as long again.
    """
    rounds = list(play_rounds(batch, policy, costs, num_layers, compression, checks_estimates))
    empty = np.zeros(0, dtype=np.int64)

    def joined(name: str, of_steps: bool = True) -> np.ndarray:
        parts = [getattr(each.steps if of_steps else each, name) for each in rounds]
        return np.concatenate(parts) if parts else empty

    work = joined("work") if rounds else np.zeros((0, len(WORK_NAMES)))
    return Steps(
        prompt=joined("prompts", of_steps=False),
        num_drafted=joined("num_drafted"),
        num_accepted=joined("num_accepted"),
        num_layer_calls=num_layer_calls(work),
        work=work,
        estimated_s=joined("estimated_s", of_steps=False).astype(float),
        estimate_error_s=joined("estimate_error_s", of_steps=False).astype(float),
    ).totals(batch.traces, costs)


def play_rounds(
    batch: TraceBatch,
    policy: BatchPolicy,
    costs: CostTable,
    num_layers: int,
    compression: str,
    checks_estimates: bool = True,
) -> Iterator[Round]:
    """The first step of every prompt, the second step of every prompt that has one, ..."""
    player = SingleExitPlayer(batch, policy.decisions, num_layers)
    temperatures = np.array([trace.sampling_temperature for trace in batch.traces])
    state = FeatureBatch(compression, batch.context_length[batch.first_row] + 1, temperatures)
    policy.reset_batch(len(batch.traces))
    row, prompts = batch.first_row + 1, np.arange(len(batch.traces))
    while True:
        runs = row < batch.end_row[prompts]
        row, prompts = row[runs], prompts[runs]
        if not len(row):
            return
        features = state.vectors(prompts, batch.lookups[row]) if policy.needs_features else None
        choices = policy.decide_batch(features, prompts)
        wanted = choices.wants_full_signals
        draws = player.play(row, choices.decision, features, wanted)
        steps = replace(draws.steps, work=with_policy_work(draws.steps.work, wanted, policy.needs_features))
        policy.observe_batch(prompts, steps)
        if policy.needs_features:
            state.update(prompts, steps)
        estimated = np.where(draws.is_exact, nan, costs.seconds(draws.steps.work - draws.known_work))
        errors = np.full(len(row), nan)
        if checks_estimates:
            errors = _estimate_errors(player, row, choices, features, draws, costs)
        yield Round(prompts, row, choices.decision, steps, estimated, errors)
        row = row + steps.num_emitted


def _estimate_errors(
    player: SingleExitPlayer,
    rows: np.ndarray,
    choices: Choices,
    features: np.ndarray | None,
    draws: Draws,
    costs: CostTable,
) -> np.ndarray:
    """Estimate less truth, seconds, of the steps that only a roll-out makes exact; else nan. (R,)"""
    errors = np.full(len(rows), nan)
    checked = np.flatnonzero(draws.is_exact & draws.has_followed)
    if not len(checked):
        return errors
    own = None if features is None else features[checked]
    guess = player.play(
        rows[checked], choices.decision[checked], own, choices.wants_full_signals[checked], follows=False
    )
    seconds = costs.seconds(guess.steps.work - draws.steps.work[checked])
    errors[checked] = np.where(guess.is_exact, nan, seconds)
    return errors
