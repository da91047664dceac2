"""Calibration of exit scores: measures of fit, slope and offset by likelihood, isotonic regression. Knows no log."""

# R rows (drafts), B bins

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import brier_score_loss, roc_auc_score

from specbound.decoding.stats import ratio
from specbound_controller.mlp import sigmoid
from specbound_profiling.report.records import Bin, Measures

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


def fit_isotonic(scores: np.ndarray, outcomes: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The best rising step function from score to probability, by least squares; flat beyond what it saw. (R,) each"""
    fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(scores, outcomes.astype(np.float64))
    return lambda values: np.asarray(fitted.predict(values))


def equal_bins(values: np.ndarray, outcomes: np.ndarray, num_bins: int = 10) -> tuple[Bin, ...]:
    """Rows in bins of equal count by a value that rises, with the share of outcomes in each. (R,) each"""
    order = np.argsort(values, kind="stable")
    parts = [part for part in np.array_split(order, num_bins) if len(part)]
    return tuple(Bin(float(values[part].mean()), float(outcomes[part].mean()), len(part)) for part in parts)


def expected_calibration_error(probability: np.ndarray, outcomes: np.ndarray, num_bins: int = 10) -> float:
    """Mean distance between probability and share of outcomes, over bins of equal count. (R,) each"""
    gaps = [b.count * abs(b.value - b.share) for b in equal_bins(probability, outcomes, num_bins)]
    return ratio(sum(gaps), len(outcomes))


def measures(probability: np.ndarray, outcomes: np.ndarray) -> Measures:
    """How well probabilities fit what happened. (R,) each"""
    clipped, is_mixed = np.clip(probability, 0.0, 1.0), len(outcomes) > 0 and 0 < outcomes.sum() < len(outcomes)
    return Measures(
        ece=expected_calibration_error(probability, outcomes),
        brier=float(brier_score_loss(outcomes, clipped)) if is_mixed else float(np.mean((clipped - outcomes) ** 2)),
        auroc=float(roc_auc_score(outcomes, probability)) if is_mixed else float("nan"),
    )


def fit_measures(exit_layer: int, probability: np.ndarray, confidence: np.ndarray, outcomes: np.ndarray) -> ExitFit:
    """All measures of the score and of plain confidence at one exit. (R,) each"""
    score, plain = measures(probability, outcomes), measures(confidence, outcomes)
    return ExitFit(
        exit_layer=exit_layer,
        num_rows=len(outcomes),
        acceptance=float(outcomes.mean()),
        ece=score.ece,
        brier=score.brier,
        auroc=score.auroc,
        confidence_ece=plain.ece,
        confidence_brier=plain.brier,
        confidence_auroc=plain.auroc,
    )
