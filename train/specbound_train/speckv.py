"""SpecKV's predictor fitted again on its released log: its published table, and what the same files also say.

The recipe is the paper's: a perceptron with 16 hidden units predicts a step's acceptance rate from signals of the
tokens which that step has drafted; one split of the rows judges it; then it is fitted on all rows, and the policies are
scored with its own predictions. Its figures are given as they are, beside those of a split by prompt, of features that
are known before the step, and of the wall clock.
"""

# N steps, F features

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from sklearn.model_selection import GroupKFold, KFold, train_test_split
from sklearn.neural_network import MLPRegressor

from specbound_profiling.speckv import (
    LEVELS,
    FixedLength,
    SpecKVClock,
    SpecKVLog,
    expected_tokens,
    fixed_lengths,
    read_clock,
    read_steps,
)

NUM_FOLDS = 5
SEED = 42
"""Of its split and of its predictor."""


@dataclass(frozen=True, slots=True)
class PolicyScore:
    """Expected tokens per step of one policy, by the predictor that SpecKV itself decides with."""

    policy: str
    by_level: dict[str, float]
    overall: float


@dataclass(frozen=True, slots=True)
class Knowledge:
    """How well features tell the acceptance rate: correlation on steps that were held out."""

    features: str
    by_row: float
    """Steps of one prompt stand on both sides of the split."""
    by_prompt: float | None
    """Whole prompts are held out; None where the file with the prompts is not given."""
    by_prompt_later: float | None
    """The same for the steps after each run's first, which has no step before it."""


@dataclass(frozen=True, slots=True)
class SpecKVAnalysis:
    """All figures."""

    num_steps: int
    num_test_steps: int
    test_correlation: float
    """Of predicted and true acceptance rate, on its own split by row."""
    test_mse: float
    scores: list[PolicyScore]
    share_of_longest: float
    """Steps in which SpecKV chooses the longest draft."""
    fixed: list[FixedLength]
    knowledge: list[Knowledge]

    def to_dict(self) -> dict[str, Any]:
        """For a report."""
        return asdict(self)


def analyse(steps_path: str, clock_path: str | None = None, num_folds: int = NUM_FOLDS) -> SpecKVAnalysis:
    """Everything that the files say. Raises InputError where they are not SpecKV's."""
    log = read_steps(steps_path)
    clock = None if clock_path is None else read_clock(clock_path, log)
    features = log.published_features()
    kinds = np.char.add(np.char.add(log.level.astype(str), "_"), log.task)
    train, test = train_test_split(np.arange(len(kinds)), test_size=0.2, random_state=SEED, stratify=kinds)
    predicted = _clipped(_fitted(features[train], log.acceptance[train]), features[test])
    expected = expected_tokens(_fitted(features, log.acceptance).predict, features[test], log.lengths)
    scores, share = _scores(log, clock, test, expected)
    return SpecKVAnalysis(
        num_steps=len(kinds),
        num_test_steps=len(test),
        test_correlation=_correlation(predicted, log.acceptance[test]),
        test_mse=float(((predicted - log.acceptance[test]) ** 2).mean()),
        scores=scores,
        share_of_longest=share,
        fixed=fixed_lengths(log, clock),
        knowledge=[
            _knowledge("signals of the step itself (as published)", features, log, clock, num_folds),
            _knowledge("signals of the step before", log.causal_features(), log, clock, num_folds),
            _knowledge("draft length and level alone", log.choice_features(), log, clock, num_folds),
        ],
    )


def _fitted(features: np.ndarray, acceptance: np.ndarray) -> MLPRegressor:
    """Its predictor."""
    return MLPRegressor(hidden_layer_sizes=(16,), max_iter=500, random_state=SEED).fit(features, acceptance)


def _clipped(model: MLPRegressor, features: np.ndarray) -> np.ndarray:
    values: np.ndarray = np.clip(model.predict(features), 0.0, 1.0)
    return values


def _correlation(predicted: np.ndarray, true: np.ndarray) -> float:
    return float(np.corrcoef(predicted, true)[0, 1])


def _scores(
    log: SpecKVLog, clock: SpecKVClock | None, rows: np.ndarray, expected: np.ndarray
) -> tuple[list[PolicyScore], float]:
    """Every policy's expected tokens, and how often SpecKV takes the longest draft. expected: (rows, lengths)"""
    chosen = expected.argmax(axis=1)
    policies = {f"fixed {length}": np.full(len(rows), i) for i, length in enumerate(log.lengths)}
    policies["fixed, longest"] = policies.pop(f"fixed {log.lengths[-1]}")
    if clock is not None:
        policies["fastest by task"] = _fastest_by_task(log, clock, rows)
    policies["speckv"] = chosen
    scores = []
    for name, choice in policies.items():
        values = expected[np.arange(len(rows)), choice]
        by_level = {level: float(values[log.level[rows] == i].mean()) for i, level in enumerate(LEVELS)}
        scores.append(PolicyScore(name, by_level, float(values.mean())))
    return scores, float((chosen == len(log.lengths) - 1).mean())


def _fastest_by_task(log: SpecKVLog, clock: SpecKVClock, rows: np.ndarray) -> np.ndarray:
    """Index of the length that is fastest by the wall clock at each row's level and task. (rows,)"""
    best = {}
    for level, task in set(zip(clock.level.tolist(), clock.task.tolist(), strict=True)):
        runs = (clock.level == level) & (clock.task == task)
        speeds = [clock.speed(runs & (clock.length == length)) for length in log.lengths]
        best[level, task] = int(np.argmax(speeds))
    return np.array([best[key] for key in zip(log.level[rows].tolist(), log.task[rows].tolist(), strict=True)])


def _knowledge(name: str, features: np.ndarray, log: SpecKVLog, clock: SpecKVClock | None, num_folds: int) -> Knowledge:
    is_later = log.step > 0
    by_row = _held_out(features, log.acceptance, None, num_folds)
    if clock is None:
        return Knowledge(name, by_row, None, None)
    prompt = clock.prompt[log.run]
    later = _held_out(features[is_later], log.acceptance[is_later], prompt[is_later], num_folds)
    return Knowledge(name, by_row, _held_out(features, log.acceptance, prompt, num_folds), later)


def _held_out(features: np.ndarray, acceptance: np.ndarray, groups: np.ndarray | None, num_folds: int) -> float:
    """Correlation of predictions for each fold by the predictor that was fitted without it."""
    predicted = np.zeros(len(acceptance))
    for train, test in _folds(features, groups, num_folds):
        predicted[test] = _clipped(_fitted(features[train], acceptance[train]), features[test])
    return _correlation(predicted, acceptance)


def _folds(features: np.ndarray, groups: np.ndarray | None, num_folds: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    if groups is None:
        return KFold(num_folds, shuffle=True, random_state=SEED).split(features)
    return GroupKFold(num_folds).split(features, groups=groups)
