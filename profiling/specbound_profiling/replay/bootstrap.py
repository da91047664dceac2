"""Intervals over prompts: the one bootstrap of the project. Knows only arrays."""

import numpy as np

MIN_BOOTSTRAP_PROMPTS = 5
"""Fewer prompts than this give no interval."""


def bootstrap_ratio(
    numerator: np.ndarray, denominator: np.ndarray, seed: int, num_samples: int = 2000
) -> tuple[float, float]:
    """95 % interval of `sum(numerator) / sum(denominator)` over resampled prompts; nan for too few. (B,), (B,)"""
    if len(numerator) < MIN_BOOTSTRAP_PROMPTS:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, len(numerator), (num_samples, len(numerator)))
    ratios = numerator[chosen].sum(1) / denominator[chosen].sum(1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)
