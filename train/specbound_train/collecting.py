"""Where a training run's steps come from: replays of a level's prompts, in parts of bounded size.

Everything that is computed for a part (signals, outcomes of all actions) is gone before the next one's turn, so that
memory does not follow the number of positions.
"""

# R rows (steps), F features

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from math import ceil

import numpy as np

from specbound_controller.actions import Action
from specbound_controller.controller import MAX_SAMPLE_ROWS, Controller, Sample
from specbound_controller.costs import CostTable
from specbound_controller.policy import AnnealedConfidence, FixedPolicy, Policy
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.replay.grid import chunks
from specbound_profiling.replay.trace_batch import TraceBatch
from specbound_train.data import LevelData
from specbound_train.rows import ExploringPolicy, StepRows, collect_steps

WANTED_ROWS = 4000
"""Steps that the first collection aims at; a small log is replayed several times with other random actions."""
MAX_PASSES = 8
PolicyAt = Callable[[CostTable, str], Policy]
"""A policy that asks for features, for the costs and the name of a compression level."""
PART_POSITIONS = 16_384
"""About so many positions are replayed and turned into rows at a time."""


def first_steps(
    data: LevelData,
    traces: Sequence[PromptTrace],
    folds: np.ndarray,
    static_action: Action,
    actions: Sequence[Action],
    alpha: float,
    num_layers: int,
    exploration: float,
    seed: Sequence[int],
    full_signals: bool,
) -> list[StepRows]:
    """Steps of a level's best static action with random ones of the grid between, on some of its prompts.

    Args:
        folds: Fold of each of the traces.
        exploration: Share of random actions.
        seed: Of the random actions.
        full_signals: Whether features hold the full model's signals.
    """
    annealed = {"annealed": AnnealedConfidence(alpha)}
    # Before there is a learned score, annealed confidence tests in its place.
    grid = [
        (replace(action, score="annealed") if action.score == "learned" else action).decision(annealed)
        for action in actions
    ]
    passes = min(MAX_PASSES, max(1, ceil(2 * WANTED_ROWS / max(1, data.num_positions))))
    base = FixedPolicy(static_action.decision(annealed))
    base.needs_full_signals = full_signals
    steps = []
    for number in range(passes):
        policy = ExploringPolicy(base, grid, exploration, np.random.default_rng((*seed, len(traces), number)))
        for batch, own in _parts(traces, folds):
            steps.append(collect_steps(batch, own, policy, data.costs, num_layers, data.compression)[0])
    return steps


def without_guard(controllers: Sequence[Controller]) -> list[PolicyAt]:
    """What some controllers choose by themselves."""
    return [partial(controller.policy, guard=False) for controller in controllers]


def replay_training(
    levels: Sequence[LevelData], by_fold: Sequence[PolicyAt], num_layers: int
) -> tuple[float, list[StepRows]]:
    """Replayed tokens per second on the training prompts, and the steps taken.

    Each prompt is decoded by the policy that was fitted without its fold, so that the speed is no promise of networks
    that know the prompts.
    """
    num_tokens, seconds = 0.0, 0.0
    steps = []
    for data in levels:
        for fold, policy_at in enumerate(by_fold):
            policy = policy_at(data.costs, data.compression)
            traces = [trace for trace, own in zip(data.training, data.folds, strict=True) if own == fold]
            for batch, own in _parts(traces, np.full(len(traces), fold)):
                rows, result = collect_steps(batch, own, policy, data.costs, num_layers, data.compression)
                steps.append(rows)
                num_tokens += float(result.num_tokens.sum())
                seconds += float(result.seconds.sum())
    return num_tokens / seconds, steps


def sample_of(steps: Sequence[StepRows], seed: int) -> Sample:
    """At most `MAX_SAMPLE_ROWS` of the steps, each standing for equally many."""
    features = np.concatenate([part.features for part in steps])
    num_rows = min(len(features), MAX_SAMPLE_ROWS)
    chosen = np.sort(np.random.default_rng(seed).choice(len(features), num_rows, replace=False))
    weight = len(features) / num_rows
    return Sample(features[chosen], np.full(num_rows, weight, dtype=np.float32))


def at_most(steps: Sequence[StepRows], num_steps: int, seed: int) -> list[StepRows]:
    """A random choice of so many steps where there are more, part by part in the same order."""
    total = sum(map(len, steps))
    if total <= num_steps:
        return list(steps)
    chosen = np.zeros(total, dtype=bool)
    chosen[np.random.default_rng(seed).choice(total, num_steps, replace=False)] = True
    kept = np.split(chosen, np.cumsum([len(part) for part in steps])[:-1])
    return [
        StepRows(part.batch, part.rows[own], part.features[own], part.folds[own])
        for part, own in zip(steps, kept, strict=True)
        if own.any()
    ]


def _parts(traces: Sequence[PromptTrace], folds: np.ndarray) -> Iterator[tuple[TraceBatch, np.ndarray]]:
    """Traces of about `PART_POSITIONS` positions together, in order, with their folds."""
    first = 0
    for part in chunks(traces, PART_POSITIONS) if traces else ():
        yield TraceBatch(part), folds[first : first + len(part)]
        first += len(part)
