"""Figures as people read them: a dash where there is none. Nothing was divided, so nothing is shown."""

import math

DASH = "–"


def number(value: float, digits: int) -> str:
    """A dash for nan."""
    return DASH if math.isnan(value) else f"{value:.{digits}f}"


def times(value: float, digits: int = 2) -> str:
    """A ratio; a dash for nan."""
    return DASH if math.isnan(value) else f"{value:.{digits}f}x"


def share(value: float, digits: int = 0) -> str:
    """Per cent; a dash for nan."""
    return DASH if math.isnan(value) else f"{value:.{digits}%}"


def change(value: float) -> str:
    """Per cent with their sign; a dash for nan."""
    return DASH if math.isnan(value) else f"{value:+.1%}"


def interval(low: float, high: float, digits: int = 2) -> str:
    """Both ends; a dash for nan."""
    return DASH if math.isnan(low) or math.isnan(high) else f"{low:.{digits}f} to {high:.{digits}f}"
