"""Objectives for a perceptron that names the action itself, and how one is fitted: each output is one action's.

Same perceptron, optimiser, folds, early stopping and bounds as `modules.fit`, which knows binary targets only. Knows
no trace and no policy.
"""

# R rows (steps), A actions, B rows of a batch, O outputs, F features

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from specbound_controller.mlp import Mlp
from specbound_controller.step_policy import solve_rho
from specbound_train.alternatives_rows import OutcomeRows
from specbound_train.modules import MAX_BATCH_ROWS, MAX_HELD_OUT_ROWS, FitSettings, Perceptron

_TIE_S = 1e-9
"""Actions whose totals differ by less are equally good."""
_PRIOR_ROWS = 1.0
"""Rows in which, before any evidence, the oracle takes each action equally often."""


@dataclass(frozen=True, slots=True)
class Objective:
    """What a perceptron is fitted to, and how its outputs rank the actions."""

    name: str
    targets: Callable[[OutcomeRows, float], np.ndarray]
    """From outcomes and rho (tokens per second). (R, O) float32"""
    loss: Callable[[Tensor, Tensor], Tensor]
    """Mean loss of outputs for targets, (B, O) each."""
    bias: Callable[[np.ndarray], np.ndarray]
    """Outputs to begin with, the same for every row. (R, O) targets -> (O,)"""
    has_seconds: bool = False
    """Whether tokens and then seconds are predicted, two outputs for an action; else one, the largest is chosen."""

    def ranking(self, mlp: Mlp, features: np.ndarray) -> Mlp:
        """The perceptron whose largest output is the choice. features: steps to solve rho on. (R, F)"""
        if not self.has_seconds:
            return mlp
        outputs = mlp(features).astype(np.float64)
        emitted, seconds = np.split(outputs, 2, axis=1)
        scaled_s = np.maximum(seconds, 1e-3)  # in mean steps, where the fit may say less than nothing
        rho = np.float32(solve_rho(emitted, scaled_s, np.ones(len(features))))
        of_tokens, of_seconds = np.split(mlp.weight2, 2)
        bias_tokens, bias_seconds = np.split(mlp.bias2, 2)
        return Mlp(mlp.weight1, mlp.bias1, of_tokens - rho * of_seconds, bias_tokens - rho * bias_seconds)


def values(rows: OutcomeRows, rho: float) -> np.ndarray:
    """`emitted - rho * seconds`, less the row's mean, which no choice depends on. (R, A) float32"""
    worth = rows.emitted - np.float32(rho) * rows.seconds
    return worth - worth.mean(axis=1, keepdims=True)


def regrets(rows: OutcomeRows, rho: float) -> np.ndarray:
    """What each action is worth less than the step's best. (R, A) float32, tokens"""
    worth = values(rows, rho)
    return worth.max(axis=1, keepdims=True) - worth


def oracle_shares(rows: OutcomeRows, rho: float) -> np.ndarray:
    """1 for the action that the oracle on the grid takes, in equal parts where several are equal. (R, A) float32"""
    totals = rows.seconds.astype(np.float64) + rows.rest_s
    is_best = totals <= totals.min(axis=1, keepdims=True) + _TIE_S
    return (is_best / is_best.sum(axis=1, keepdims=True)).astype(np.float32)


def tokens_and_seconds(rows: OutcomeRows, rho: float) -> np.ndarray:
    """Both halves of the worth, seconds in units of the mean step. (R, 2 A) float32"""
    return np.concatenate((rows.emitted, rows.seconds / rows.seconds.mean()), axis=1)


def _squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.mse_loss(outputs, targets)


def _expected_regret(outputs: Tensor, targets: Tensor) -> Tensor:
    return (torch.softmax(outputs, dim=1) * targets).sum(dim=1).mean()


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, targets)


def _mean(targets: np.ndarray) -> np.ndarray:
    return targets.mean(axis=0)


def _softened_best(targets: np.ndarray) -> np.ndarray:
    """Prefers what is best in the mean, softly, so that the gradient reaches the other actions."""
    mean = targets.mean(axis=0)
    return -mean / max(float(mean.std()), 1e-6)


def _log_share(targets: np.ndarray) -> np.ndarray:
    shares: np.ndarray = np.log(targets.sum(axis=0) + _PRIOR_ROWS / targets.shape[1])
    return shares


OBJECTIVES = (
    Objective("value regression", values, _squared_error, _mean),
    Objective("tokens and seconds", tokens_and_seconds, _squared_error, _mean, has_seconds=True),
    Objective("cost-sensitive classification", regrets, _expected_regret, _softened_best),
    Objective("imitation of oracle_grid", oracle_shares, _cross_entropy, _log_share),
)
"""The alternatives to survival curves."""


def fit_objective(objective: Objective, rows: OutcomeRows, rho: float, settings: FitSettings) -> tuple[Mlp, ...]:
    """For each fold, a perceptron fitted on the others and kept by its loss on that fold, as `modules.fit_folds`.

    settings: of all folds together: each gets its share of the hidden units.
    """
    targets = objective.targets(rows, rho)
    num_folds = int(rows.folds.max()) + 1
    mlps = []
    for fold in range(num_folds):
        own = replace(
            settings,
            hidden_units=max(1, settings.hidden_units // num_folds),
            seed=settings.seed * num_folds + fold,
        )
        is_held_out = rows.folds == fold
        mlps.append(
            _fit(
                objective,
                (rows.features[~is_held_out], targets[~is_held_out]),
                (rows.features[is_held_out], targets[is_held_out]),
                own,
            )
        )
    return tuple(mlps)


def _fit(
    objective: Objective,
    rows: tuple[np.ndarray, np.ndarray],
    tune: tuple[np.ndarray, np.ndarray],
    settings: FitSettings,
) -> Mlp:
    """One perceptron: AdamW, one cycle, the weights that are best on `tune`; the constant fit is a candidate."""
    inputs, targets = (torch.from_numpy(np.ascontiguousarray(array)) for array in rows)
    scaler = StandardScaler().fit(rows[0].astype(np.float64))
    scale = np.where(scaler.var_ < 1e-12, 0.0, 1.0 / scaler.scale_)
    batch_rows = min(MAX_BATCH_ROWS, max(32, len(inputs) // 16))
    batches = -(-len(inputs) // batch_rows)
    epochs = min(settings.epochs, math.ceil(settings.max_steps / batches))
    held_out = _held_out(tune, settings.seed)
    rng = np.random.default_rng(settings.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        module = Perceptron(
            torch.from_numpy(scaler.mean_).float(),
            torch.from_numpy(scale).float(),
            torch.from_numpy(objective.bias(rows[1])).float(),
            settings,
            epochs * batches,
        )
        configured = cast(dict[str, Any], module.configure_optimizers())
        optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
        best_loss, best, num_worse = math.inf, copy.deepcopy(module.state_dict()), 0
        for epoch in range(epochs + 1):
            with torch.no_grad():
                loss = float(objective.loss(module(held_out[0]), held_out[1]))
            if loss < best_loss:
                best_loss, best, num_worse = loss, copy.deepcopy(module.state_dict()), 0
            else:
                num_worse += 1
            if num_worse >= settings.patience or epoch == epochs:
                break
            for chosen in torch.from_numpy(rng.permutation(len(inputs))).split(batch_rows):
                optimizer.zero_grad()
                objective.loss(module(inputs[chosen]), targets[chosen]).backward()
                optimizer.step()
                schedule.step()
    module.load_state_dict(best)
    return module.to_numpy()


def _held_out(tune: Sequence[np.ndarray], seed: int) -> tuple[Tensor, Tensor]:
    """The rows that say when a fit ends; a random choice of more."""
    num_rows = len(tune[0])
    chosen = np.arange(num_rows)
    if num_rows > MAX_HELD_OUT_ROWS:
        chosen = np.sort(np.random.default_rng(seed).choice(num_rows, MAX_HELD_OUT_ROWS, replace=False))
    return torch.from_numpy(tune[0][chosen]), torch.from_numpy(tune[1][chosen])
