"""From timed steps to the prices of work: non-negative least squares of relative errors. Measures nothing."""

# S steps, W work counts

from collections.abc import Mapping

import numpy as np
from scipy.optimize import nnls

from specbound_controller.costs import ROW_KNOTS, WORK_NAMES, CostTable

NUM_FOLDS = 5
"""Every fifth step is left out of a fit and judges it, and so are all others in turn."""
NUM_PASSES = 8


def fit_costs(
    work: np.ndarray,
    seconds: np.ndarray,
    compression: str,
    machine: str,
    alone: Mapping[str, float] | None = None,
) -> CostTable:
    """Cost table from timed steps; its held-out error comes from steps left out.

    Args:
        work: counts of each step, (S, W).
        seconds: (S,)
        alone: seconds of the kinds of work that were timed alone, by name; the others are fitted to what is left.
    """
    error = np.abs(held_out_seconds(work, seconds, alone) / seconds - 1.0)
    prices = _fit(work, seconds, _given(alone))
    return CostTable(
        coefficients=dict(zip(WORK_NAMES, prices.tolist(), strict=True)),
        compression=compression,
        machine=machine,
        held_out_error=float(np.median(error)),
        num_steps=len(seconds),
    )


def held_out_seconds(work: np.ndarray, seconds: np.ndarray, alone: Mapping[str, float] | None = None) -> np.ndarray:
    """What every step should take by a table that was fitted without it. (S,)"""
    fold = np.arange(len(seconds)) % NUM_FOLDS
    predicted = np.empty(len(seconds))
    for left_out in range(min(NUM_FOLDS, len(seconds))):
        prices = _fit(work[fold != left_out], seconds[fold != left_out], _given(alone))
        predicted[fold == left_out] = work[fold == left_out] @ prices
    return predicted


def _given(alone: Mapping[str, float] | None) -> np.ndarray:
    """Prices that are known, nan where they are to be fitted. (W,)"""
    return np.array([np.nan if alone is None else alone.get(name, np.nan) for name in WORK_NAMES])


def _fit(work: np.ndarray, seconds: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """Least squares relative to the prediction, prices >= 0, no cheaper calls with more rows, some prices given. (W,)

    Errors are relative to what was predicted, not to what was measured: the latter would weigh lucky steps more, and
    underrate all of them by the variance of the noise. Steps far from the bulk, on either side, are left out.
    """
    num_knots, is_fitted = len(ROW_KNOTS), np.isnan(fixed)
    to_prices = np.eye(work.shape[1])
    # price of a knot = sum of the increments up to it
    to_prices[:num_knots, :num_knots] = np.tril(np.ones((num_knots, num_knots)))
    given = np.where(is_fitted, 0.0, fixed)
    columns, left = (work @ to_prices)[:, is_fitted], seconds - work @ given
    predicted, keep = seconds, np.ones(len(seconds), dtype=bool)
    for _ in range(NUM_PASSES):
        weight = 1.0 / predicted[keep]
        increments, _ = nnls(columns[keep] * weight[:, None], left[keep] * weight)
        prices = to_prices[:, is_fitted] @ increments + given
        predicted = np.maximum(work @ prices, 1e-12)
        residual = seconds / predicted - 1.0
        spread = 1.4826 * np.median(np.abs(residual - np.median(residual)))
        keep = np.abs(residual - np.median(residual)) <= 3.0 * max(spread, 1e-6)
    return _with_unseen_knots(prices, work)


def _with_unseen_knots(prices: np.ndarray, work: np.ndarray) -> np.ndarray:
    """Knots that no step came near cost what proportion to the rows says, so that nothing is free. (W,)"""
    prices = prices.copy()
    for knot in range(1, len(ROW_KNOTS)):
        if not work[:, knot].any():
            prices[knot] = prices[knot - 1] * ROW_KNOTS[knot] / ROW_KNOTS[knot - 1]
    return prices
