"""Calibration of exit scores: slope and offset per exit layer, alpha of annealing, and the measures of fit."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import brier_score_loss, roc_auc_score

from specbound_controller.mlp import sigmoid
from specbound_profiling.trace import PromptTrace, interpolate_confidence

_PRIOR_ROWS = 20.0  # weight of "slope 1, offset 0" against the rows at hand


@dataclass(frozen=True, slots=True)
class ExitFit:
    """How well probabilities of acceptance fit what happened, at one exit layer."""

    exit_layer: int
    num_rows: int
    acceptance: float
    """Share accepted."""
    ece: float
    """Expected calibration error, 10 bins of equal count."""
    brier: float
    """Mean squared error of the probability."""
    auroc: float
    """Area under the ROC curve; nan where all outcomes are the same."""
    confidence_ece: float
    """The same three for plain confidence."""
    confidence_brier: float
    confidence_auroc: float


def platt(logits: np.ndarray, outcomes: np.ndarray) -> tuple[float, float]:
    """Slope and offset on the logits by likelihood, by Newton's method; few rows leave them near 1 and 0. (R,) each"""
    design = np.stack((logits, np.ones_like(logits)), axis=1).astype(np.float64)
    prior = np.array((1.0, 0.0))
    values = prior.copy()
    for _ in range(50):
        probability = sigmoid(design @ values)
        gradient = design.T @ (probability - outcomes) + _PRIOR_ROWS * 0.25 * (values - prior)
        curvature = (design * (probability * (1.0 - probability))[:, None]).T @ design
        change = np.linalg.solve(curvature + _PRIOR_ROWS * 0.25 * np.eye(2), gradient)
        values -= np.clip(change, -1.0, 1.0)
        if np.abs(change).max() < 1e-9:
            break
    # A slope of zero or below would turn the order of the scores around: rather no calibration than that.
    return (float(values[0]), float(values[1])) if values[0] > 0.05 else (1.0, 0.0)


def expected_calibration_error(probability: np.ndarray, outcomes: np.ndarray, num_bins: int = 10) -> float:
    """Mean distance between probability and share of outcomes, over bins of equal count. (R,) each"""
    order = np.argsort(probability, kind="stable")
    bins = [part for part in np.array_split(order, num_bins) if len(part)]
    gaps = [len(part) * abs(float(probability[part].mean() - outcomes[part].mean())) for part in bins]
    return sum(gaps) / len(order) if len(order) else float("nan")


def fit_measures(exit_layer: int, probability: np.ndarray, confidence: np.ndarray, outcomes: np.ndarray) -> ExitFit:
    """All measures of the score and of plain confidence at one exit. (R,) each"""
    is_mixed = len(outcomes) > 0 and 0 < outcomes.sum() < len(outcomes)
    measures: list[float] = []
    for values in (probability, confidence):
        clipped = np.clip(values, 0.0, 1.0)
        measures += [
            expected_calibration_error(values, outcomes),
            float(brier_score_loss(outcomes, clipped)) if is_mixed else float(np.mean((clipped - outcomes) ** 2)),
            float(roc_auc_score(outcomes, values)) if is_mixed else float("nan"),
        ]
    return ExitFit(exit_layer, len(outcomes), float(outcomes.mean()), *measures)


def fit_alpha(traces: Sequence[PromptTrace], num_layers: int) -> float:
    """Strength of annealing by likelihood: how well annealed confidence foretells acceptance, over all exits.

    Only values whose temperatures the log's grid covers are tried.
    """
    exit_layers, temperatures = traces[0].exit_layers, traces[0].temperatures
    accepted = np.concatenate([trace.is_accepted for trace in traces])
    confidence_at = np.concatenate([trace.confidence_at for trace in traces])
    largest = (temperatures[-1] - 1.0) / (1.0 - exit_layers[0] / num_layers)
    best = (np.inf, 0.0)
    for alpha in np.linspace(0.0, largest, 21):
        loss = 0.0
        for exit_index, exit_layer in enumerate(exit_layers):
            temperature = 1.0 + alpha * (1.0 - exit_layer / num_layers)
            confidence = interpolate_confidence(confidence_at[:, exit_index], temperatures, temperature)
            probability = np.clip(confidence.astype(np.float64), 1e-6, 1.0 - 1e-6)
            right = np.where(accepted[:, exit_index], probability, 1.0 - probability)
            loss -= float(np.log(right).sum())
        best = min(best, (loss, float(alpha)))
    return best[1]
