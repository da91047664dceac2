"""One method's speed over another's on the same prompts, with an interval and a p-value. Knows only arrays."""

# B prompts, S samples

import math
from dataclasses import dataclass

import numpy as np

from specbound_profiling.replay.bootstrap import MIN_BOOTSTRAP_PROMPTS

NUM_SAMPLES = 10_000
"""Resamples of the prompts; no p-value is below 2 / (so many + 1)."""


@dataclass(frozen=True, slots=True)
class SpeedRatio:
    """Tokens per second of one method over another's: a ratio of sums."""

    ratio: float
    low: float
    """Lower end of the 95 % bootstrap interval over prompts; nan for fewer than five prompts."""
    high: float
    """Upper end."""
    p_value: float
    """Two-sided: twice the share of resamples on the rarer side of 1."""


def speed_ratio(
    tokens: np.ndarray, seconds: np.ndarray, other_tokens: np.ndarray, other_seconds: np.ndarray, seed: int
) -> SpeedRatio:
    """Compares two methods by paired bootstrap: a resample takes the same prompts for both. (B,) each"""
    ratio = float(tokens.sum() / seconds.sum() / (other_tokens.sum() / other_seconds.sum()))
    if len(tokens) < MIN_BOOTSTRAP_PROMPTS:
        return SpeedRatio(ratio, math.nan, math.nan, math.nan)
    chosen = np.random.default_rng(seed).integers(0, len(tokens), (NUM_SAMPLES, len(tokens)))
    sums = [values[chosen].sum(axis=1) for values in (tokens, seconds, other_tokens, other_seconds)]
    ratios = sums[0] / sums[1] / (sums[2] / sums[3])
    low, high = np.quantile(ratios, [0.025, 0.975])
    rarer = min(int((ratios <= 1.0).sum()), int((ratios >= 1.0).sum()))
    return SpeedRatio(ratio, float(low), float(high), min(1.0, 2 * (rarer + 1) / (NUM_SAMPLES + 1)))
