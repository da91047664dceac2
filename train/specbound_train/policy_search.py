"""Corrects a step policy's choice by what whole replays say, by the cross-entropy method.

Predicted gains err by a few hundredths of a token, the same way at every step, and the best of many actions is the one
whose error is largest. So every kind of action and every width gets a correction, in tokens, and the objective is the
replayed speed itself, on training prompts that are each decoded by networks that have not seen them. Few numbers, so
that there is little to overfit. Knows no network's inside.
"""

# A actions, P profiles, W widths, D = 1 + P + W corrections

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from specbound_controller.config import TEXT_KINDS, correction_key
from specbound_controller.controller import Controller
from specbound_controller.controller_policy import ControllerPolicy
from specbound_controller.costs import CostTable
from specbound_profiling.progress import working
from specbound_profiling.replay.batch import replay_batch
from specbound_profiling.replay.trace_batch import TraceBatch
from specbound_train.data import LevelData

MAX_SEARCH_POSITIONS = 12_000
"""Training positions of one level that are replayed for each candidate; a random choice of the prompts of more."""
NUM_ITERATIONS = 5
NUM_CANDIDATES = 20
"""Corrections tried in each iteration."""
NUM_BEST = 5
"""Of them, those that the next iteration is drawn around."""
FIRST_SPREAD, LEAST_SPREAD = 0.15, 0.02
"""Standard deviation of the candidates around their mean, tokens."""


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Prompts that one controller may be tried on."""

    batch: TraceBatch
    policy: ControllerPolicy
    costs: CostTable
    compression: str


def search_corrections(
    levels: Sequence[LevelData], by_fold: Sequence[Controller], num_layers: int, seed: int
) -> dict[str, tuple[float, ...]]:
    """The corrections of the actions with which training prompts are replayed fastest, for each compression level and
    kind of text among the levels, where any help: `correction_key` -> (A,).

    by_fold: the controllers that were fitted without each fold, all with the same actions.
    """
    found, places = {}, _places(by_fold[0])
    for index, (compression, kind) in enumerate(product(by_fold[0].config.compressions, TEXT_KINDS)):
        own = [
            data
            for data in levels
            if data.compression == compression and (data.sampling_temperature > 0) == (kind == "sampled")
        ]
        corrections = _search(kind, _parts(own, by_fold, seed), places, num_layers, (seed, index))
        if corrections is not None:
            found[correction_key(compression, kind)] = tuple(corrections.tolist())
    return found


def _search(
    kind: str, parts: Sequence[_Part], places: np.ndarray, num_layers: int, seed: Sequence[int]
) -> np.ndarray | None:
    """The best corrections of one kind of text; None where none helps. (A,)"""
    if not parts:
        return None

    def speed(numbers: np.ndarray) -> float:
        return _speed(parts, kind, numbers[places].sum(axis=1), num_layers)

    rng, size = np.random.default_rng(seed), int(places.max()) + 1
    mean, spread = np.zeros(size), np.full(size, FIRST_SPREAD)
    before = speed(mean)
    with working("correcting the choice by replay", NUM_ITERATIONS * NUM_CANDIDATES) as work:
        for _ in range(NUM_ITERATIONS):
            candidates = mean + spread * rng.standard_normal((NUM_CANDIDATES, size))
            candidates[0] = mean
            speeds = []
            for candidate in candidates:
                speeds.append(speed(candidate))
                work.advance()
            best = candidates[np.argsort(speeds)[-NUM_BEST:]]
            mean, spread = best.mean(axis=0), np.maximum(best.std(axis=0), LEAST_SPREAD)
    corrections: np.ndarray = mean[places].sum(axis=1)
    return corrections if speed(mean) > before else None


def _places(controller: Controller) -> np.ndarray:
    """Which two numbers an action's correction is the sum of: its kind's, 0 for plain decoding, its width's. (A, 2)"""
    layout, actions = controller.step_policy.layout, controller.config.actions
    widths = sorted({action.width for action in actions})
    num_kinds = 1 + len(layout.profiles)
    kinds = [1 + layout.profile_of(action) if action.width else 0 for action in actions]
    return np.array([[kind, num_kinds + widths.index(a.width)] for kind, a in zip(kinds, actions, strict=True)])


def _parts(levels: Sequence[LevelData], by_fold: Sequence[Controller], seed: int) -> list[_Part]:
    prompts = sorted({trace.prompt_id for data in levels for trace in data.training})
    num_positions = sum(trace.num_positions for data in levels for trace in data.training)
    num_prompts = max(1, round(len(prompts) * min(1.0, MAX_SEARCH_POSITIONS / max(1, num_positions))))
    chosen = set(np.random.default_rng(seed).permutation(prompts)[:num_prompts].tolist())
    parts = []
    for data in levels:
        for fold, controller in enumerate(by_fold):
            pairs = zip(data.training, data.folds, strict=True)
            traces = [trace for trace, own in pairs if own == fold and trace.prompt_id in chosen]
            if traces:
                policy = controller.policy(data.costs, data.compression, guard=False)
                parts.append(_Part(TraceBatch(traces), policy, data.costs, data.compression))
    return parts


def _speed(parts: Sequence[_Part], kind: str, corrections: np.ndarray, num_layers: int) -> float:
    """Replayed tokens per second. corrections: (A,)"""
    num_tokens, seconds = 0.0, 0.0
    for part in parts:
        policy = part.policy.corrected(kind, corrections)
        result = replay_batch(part.batch, policy, part.costs, num_layers, part.compression, checks_estimates=False)
        num_tokens += float(result.num_tokens.sum())
        seconds += float(result.seconds.sum())
    return num_tokens / seconds
