"""What every action of the grid would have done in each step: targets of the objectives that skip the curves.

As the curves' targets, they are full information, read off the trace with the exit score of the step's fold. Knows no
network.
"""

# R rows (steps), A actions, F features, N rows of a batch, P positions of a trace

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from specbound_controller.actions import Action
from specbound_controller.costs import WORK_NAMES, CostTable
from specbound_controller.policy import AnnealedConfidence
from specbound_controller.score import LearnedScore
from specbound_profiling.grid import Grid, chunks
from specbound_profiling.outcomes import TraceBatch
from specbound_profiling.single_exit import SingleExitPlayer, with_policy_work
from specbound_profiling.trace import PromptTrace
from specbound_train.rows import StepRows


@dataclass(frozen=True, slots=True, eq=False)
class OutcomeRows:
    """Steps with what each action would have made of them."""

    features: np.ndarray
    """(R, F) float32"""
    emitted: np.ndarray
    """Tokens. (R, A) float32"""
    seconds: np.ndarray
    """Of the step, the policy's own work included. (R, A) float32"""
    rest_s: np.ndarray
    """Seconds for the rest of the prompt, had the oracle on the grid gone on after the step. (R, A) float32"""
    folds: np.ndarray
    """Fold of each row's prompt. (R,) int64"""

    def __len__(self) -> int:
        return len(self.features)

    def subset(self, chosen: np.ndarray) -> "OutcomeRows":
        """Some of the rows. chosen: (R,) bool, or indices"""
        return OutcomeRows(*(getattr(self, field.name)[chosen] for field in fields(self)))


def concatenate_outcome_rows(parts: Sequence[OutcomeRows]) -> OutcomeRows:
    """All rows of some parts, one after another."""
    return OutcomeRows(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(OutcomeRows)))


@dataclass(frozen=True, slots=True, eq=False)
class Pricing:
    """What outcomes are measured by at one compression level."""

    actions: tuple[Action, ...]
    """The grid. (A,)"""
    num_layers: int
    costs: CostTable
    has_full_signals: bool
    """Whether every step takes the full model's signals, and pays for them."""

    def seconds(self, work: np.ndarray) -> np.ndarray:
        """Of steps of a policy that reads features. (R, W) -> (R,)"""
        wanted = np.full(len(work), self.has_full_signals)
        return self.costs.seconds(with_policy_work(work, wanted, is_adaptive=True))


def outcome_rows(
    steps: StepRows, pricing: Pricing, fold_scores: Sequence[LearnedScore], rest: Mapping[str, np.ndarray]
) -> OutcomeRows:
    """Outcomes of every action at some steps.

    Args:
        fold_scores: for each fold the exit score that was fitted without it.
        rest: of `rest_seconds`, for all prompts of the steps.
    """
    batch, rows, num_actions = steps.batch, steps.rows, len(pricing.actions)
    decisions = [action.decision({"learned": score}) for score in fold_scores for action in pricing.actions]
    player = SingleExitPlayer(batch, decisions, pricing.num_layers)
    trace = np.searchsorted(batch.end_row, rows, side="right")
    all_rest = np.concatenate([rest[each.prompt_id] for each in batch.traces])  # one entry more than rows, each trace
    wanted = np.zeros(len(rows), dtype=bool)
    emitted, seconds, rest_s = (np.empty((len(rows), num_actions), dtype=np.float32) for _ in range(3))
    for column in range(num_actions):
        played = player.play(rows, steps.folds * num_actions + column, steps.features, wanted).steps
        emitted[:, column] = played.num_emitted
        seconds[:, column] = pricing.seconds(played.work)
        rest_s[:, column] = all_rest[rows + trace + played.num_emitted]
    return OutcomeRows(steps.features, emitted, seconds, rest_s, steps.folds)


def rest_seconds(traces: Sequence[PromptTrace], pricing: Pricing, alpha: float) -> dict[str, np.ndarray]:
    """Least seconds from each position to the end of its prompt, by the best actions of the grid: what `oracle_grid`
    computes, with annealed confidence as the score, since a learned one needs the steps before. {prompt id: (P + 1,)}
    """
    annealed = AnnealedConfidence(alpha)
    decisions = [action.decision({"annealed": annealed, "learned": annealed}) for action in pricing.actions]
    own_s = float(pricing.seconds(np.zeros((1, len(WORK_NAMES))))[0])
    found = {}
    for part in chunks(traces):
        batch = TraceBatch(part)
        emitted, seconds = Grid(batch, pricing.costs, pricing.num_layers, decisions).outcomes()
        for trace, first in zip(part, batch.first_row, strict=True):
            rest = np.zeros(trace.num_positions + 1)
            for position in range(trace.num_positions - 1, 0, -1):
                row = first + position
                rest[position] = (seconds[row] + own_s + rest[position + emitted[row]]).min()
            found[trace.prompt_id] = rest
    return found
