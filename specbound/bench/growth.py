"""How measured seconds grow: a straight line, and the exponent that fits best. Knows only numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

EXPECTED_EXPONENT = 1.0
"""Of all that a benchmark measures: in proportion to what varies, beside a fixed part."""
EXPONENTS = np.linspace(0.1, 3.0, 117)
LEAST_GROWTH = 0.10
"""Relative growth from the first to the last point below which there is no exponent to speak of."""


@dataclass(frozen=True, slots=True)
class Growth:
    """seconds = fixed + slope * value, and seconds = a + b * value ** exponent."""

    fixed_s: float
    slope_s: float
    """Seconds for each unit of the axis."""
    exponent: float
    """Best of a grid; nan where hardly anything grows. 2 would be growth with the square."""
    largest_error: float
    """Largest relative distance of a point from the straight line."""


def fit_growth(values: Sequence[float], seconds: Sequence[float]) -> Growth:
    """Least squares of relative errors, nothing below 0. Three points at least."""
    x, y = np.array(values, dtype=float), np.array(seconds, dtype=float)
    unit = x.max()
    fixed, slope = _fit(x / unit, y)
    predicted = fixed + slope * x / unit
    grows = y[-1] > (1.0 + LEAST_GROWTH) * y[0]
    exponent = min(EXPONENTS, key=lambda p: _error((x / unit) ** p, y)) if grows else math.nan
    return Growth(float(fixed), float(slope / unit), float(exponent), float(np.abs(predicted / y - 1.0).max()))


def _fit(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(fixed, slope)"""
    from scipy.optimize import nnls

    columns = np.stack([np.ones_like(x), x], axis=1) / y[:, None]
    solution, _ = nnls(columns, np.ones_like(y))
    return np.asarray(solution)


def _error(x: np.ndarray, y: np.ndarray) -> float:
    fixed, slope = _fit(x, y)
    return float((((fixed + slope * x) / y - 1.0) ** 2).sum())
