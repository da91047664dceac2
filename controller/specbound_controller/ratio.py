"""Counts are kept and divided last."""

import math


def ratio(numerator: float, denominator: float) -> float:
    """The quotient as a plain float; nan where the denominator is zero."""
    return float(numerator / denominator) if denominator else math.nan
