"""Training rows from traces: the steps that a policy takes, and what every action would have done in each of them.

Features depend on the policy's own trajectory, so steps come from replaying it; targets are full information, read
off the trace for every action of the grid. Knows no network.
"""

# R rows (steps), N positions of all traces, J longest draft, E exit layers, F features, S signals, Q curves

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from specbound_controller.costs import CostTable
from specbound_controller.features import FEATURE_NAMES
from specbound_controller.lookup import LOOKUP_EXIT
from specbound_controller.policy import Policy
from specbound_controller.records import Decision, StepRecord
from specbound_controller.score import SIGNAL_NAMES, LearnedScore, score_inputs
from specbound_controller.step_policy import CurveLayout
from specbound_profiling.replay.exit_signals import exit_signals
from specbound_profiling.replay.replay import replay
from specbound_profiling.replay.result import ReplayResult
from specbound_profiling.replay.single_exit import SingleExitPlayer
from specbound_profiling.replay.trace_batch import TraceBatch


class ExploringPolicy:
    """A policy that now and then takes a random decision of a grid, so that its rows show more than its habits."""

    needs_features = True

    def __init__(self, base: Policy, grid: Sequence[Decision], share: float, rng: np.random.Generator) -> None:
        self._base, self._grid, self._share, self._rng = base, grid, share, rng
        self.needs_full_signals = base.needs_full_signals

    def reset(self) -> None:
        self._base.reset()

    def decide(self, features: np.ndarray | None) -> Decision:
        if self._rng.random() < self._share:
            return self._grid[int(self._rng.integers(len(self._grid)))]
        return self._base.decide(features)

    def observe(self, record: StepRecord) -> None:
        self._base.observe(record)


@dataclass(frozen=True, slots=True, eq=False)
class StepRows:
    """Steps of a replay: where each began, and its features. One step at most begins at a position."""

    batch: TraceBatch
    """The traces."""
    rows: np.ndarray
    """Row of `batch` at which each step began. (R,) int64"""
    features: np.ndarray
    """(R, F) float32"""
    folds: np.ndarray
    """Fold of each step's prompt. (R,) int64"""

    def __len__(self) -> int:
        return len(self.rows)


def collect_steps(
    batch: TraceBatch, folds: np.ndarray, policy: Policy, costs: CostTable, num_layers: int, compression: str
) -> tuple[StepRows, ReplayResult]:
    """The steps that a policy takes on the traces, with the features that it was shown at each; and the totals.

    Args:
        folds: Fold of each trace. (number of traces,)
        policy: One that asks for features.
    """
    result = replay(batch.traces, policy, costs, num_layers, compression, keep_records=True)
    assert result.records is not None and result.features is not None  # asked for
    rows = [
        int(first_row) + record.context_length - trace.prompt_length
        for trace, first_row, records in zip(batch.traces, batch.first_row, result.records, strict=True)
        for record in records
    ]
    features = np.concatenate([np.zeros((0, len(FEATURE_NAMES)), dtype=np.float32), *result.features])
    return StepRows(batch, np.array(rows, dtype=np.int64), features, np.repeat(folds, result.num_steps)), result


@dataclass(frozen=True, slots=True, eq=False)
class ScoreRows:
    """Draft tokens whose predecessors in the step were all accepted, with the outcome of their own test."""

    inputs: np.ndarray
    """Inputs of the exit score's perceptron. (R, S + E + F) float32"""
    is_accepted: np.ndarray
    """(R,) bool"""
    exit_index: np.ndarray
    """(R,) int64"""
    confidence: np.ndarray
    """Plain confidence at the exit, for comparison. (R,)"""
    folds: np.ndarray
    """Fold of each row's prompt. (R,) int64"""

    def __len__(self) -> int:
        return len(self.inputs)

    def subset(self, chosen: np.ndarray) -> "ScoreRows":
        """The rows of some indices."""
        return ScoreRows(*(getattr(self, field.name)[chosen] for field in fields(self)))


def score_rows(steps: StepRows, longest: int) -> ScoreRows:
    """Rows for the exit score: every exit, drafting up to `longest` tokens from the start of each step.

    A lookup that finds nothing drafts nothing, and has no row.
    """
    batch = steps.batch
    said = batch.said
    signals = exit_signals(said.sources, batch.exit_layers)
    confidence = np.concatenate([source.confidence for source in said.sources])
    num_exits = len(batch.exit_layers)
    position = steps.rows[:, None] + np.arange(longest)
    is_inside = position <= batch.last_row[steps.rows][:, None]
    position = np.minimum(position, batch.last_row[steps.rows][:, None])
    place = said.rows(position, np.arange(longest))
    parts = []
    for exit_index in range(num_exits):
        accepted = said.is_accepted[place, exit_index] & is_inside
        is_reached = np.ones_like(accepted)
        is_reached[:, 1:] = np.logical_and.accumulate(accepted, axis=1)[:, :-1]
        is_found = batch.exit_layers[exit_index] != LOOKUP_EXIT or batch.lookups[position, 0] > 0
        step, draft = np.nonzero(is_reached & is_inside & is_found)
        rows = place[step, draft]
        along = signals[rows, exit_index]
        along[:, SIGNAL_NAMES.index("draft_index")] = draft
        inputs = score_inputs(along, exit_index, num_exits, steps.features[step])
        parts.append(
            ScoreRows(
                inputs,
                said.is_accepted[rows, exit_index],
                np.full(len(rows), exit_index),
                confidence[rows, exit_index],
                steps.folds[step],
            )
        )
    return concatenate_score_rows(parts)


def concatenate_score_rows(parts: Sequence[ScoreRows]) -> ScoreRows:
    """All rows of some parts, one after another."""
    return ScoreRows(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(ScoreRows)))


@dataclass(frozen=True, slots=True, eq=False)
class CurveRows:
    """Targets of the step policy, curve by curve: whether the step got to draft j = 1..J given j - 1, or ran its exit
    for it."""

    features: np.ndarray
    """(R, F) float32"""
    is_reached: np.ndarray
    """Targets. (R, Q * J) bool"""
    is_known: np.ndarray
    """Which targets count: j - 1 was reached, and the length limit did not forbid j. (R, Q * J) bool"""
    folds: np.ndarray
    """Fold of each row's prompt. (R,) int64"""

    def __len__(self) -> int:
        return len(self.features)


def curve_rows(steps: StepRows, layout: CurveLayout, fold_scores: Sequence[LearnedScore], num_layers: int) -> CurveRows:
    """Full-information targets of every action, in the order of the step policy's outputs.

    fold_scores: For each fold the exit score that was fitted without it: one that has seen a prompt would promise
        more of itself than it keeps on others.
    """
    decisions = [
        replace(profile, width=layout.longest).decision({"learned": score})
        for profile in layout.profiles
        for score in fold_scores
    ]
    player = SingleExitPlayer(steps.batch, decisions, num_layers)
    accepted, drafted, runs = [], [], []
    for place, profile in enumerate(layout.profiles):
        draws = player.play(steps.rows, len(fold_scores) * place + steps.folds, steps.features)
        accepted.append(draws.steps.num_accepted)
        if profile.threshold > 0:
            drafted.append(draws.steps.num_drafted)
        if profile.lookup_threshold > 0:
            runs.append(draws.is_exit_run)
    reached = np.stack([*accepted, *drafted], axis=1)[..., None]  # (R, Q, 1)
    count = np.arange(1, layout.longest + 1)
    # A width that the length limit clipped says nothing about longer drafts; an end of sequence is an outcome.
    is_allowed = count <= steps.batch.max_width[steps.rows][:, None, None]
    is_known = (reached >= count - 1) & is_allowed
    is_true = reached >= count
    if runs:  # known where the draft got so far and went on
        tried = np.stack(drafted[-len(runs) :], axis=1)[..., None] >= count - 1
        is_known = np.concatenate((is_known, tried & is_allowed), axis=1)
        padded = [np.pad(run, ((0, 0), (0, layout.longest - run.shape[1]))) for run in runs]
        is_true = np.concatenate((is_true, np.stack(padded, axis=1)), axis=1)
    flat = (len(steps), -1)
    return CurveRows(steps.features, is_true.reshape(flat), is_known.reshape(flat), steps.folds)


def concatenate_curve_rows(parts: Sequence[CurveRows]) -> CurveRows:
    """All rows of some parts, one after another."""
    return CurveRows(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(CurveRows)))
