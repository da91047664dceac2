"""One speed over another: ratios of sums, intervals, p-values."""

import math

import numpy as np
import pytest

from specbound.evaluation.compare import NUM_SAMPLES, speed_ratio


def test_the_ratio_is_one_of_sums_not_a_mean_of_ratios() -> None:
    tokens = np.array([10.0, 30.0])
    found = speed_ratio(tokens, np.array([1.0, 1.0]), tokens, np.array([2.0, 1.0]), seed=0)
    assert found.ratio == pytest.approx((40 / 2) / (40 / 3))
    assert math.isnan(found.low) and math.isnan(found.high) and math.isnan(found.p_value)  # two prompts


def test_methods_with_outputs_of_other_lengths_are_compared_by_tokens_per_second() -> None:
    found = speed_ratio(np.full(6, 5.0), np.full(6, 1.0), np.full(6, 20.0), np.full(6, 2.0), seed=0)
    assert (found.ratio, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))


def test_a_method_that_is_faster_on_every_prompt_has_the_smallest_p_value() -> None:
    tokens, slow = np.full(8, 10.0), np.linspace(1.0, 2.0, 8)
    found = speed_ratio(tokens, slow / 1.2, tokens, slow, seed=0)
    assert found.p_value == pytest.approx(2 / (NUM_SAMPLES + 1))
    assert (found.low, found.high) == pytest.approx((1.2, 1.2))


def test_equal_methods_are_not_told_apart() -> None:
    tokens, seconds = np.full(8, 10.0), np.linspace(1.0, 2.0, 8)
    assert speed_ratio(tokens, seconds, tokens, seconds, seed=0).p_value == 1.0
    noise = np.array([0.9, 1.1, 0.95, 1.05, 0.9, 1.1, 0.95, 1.05])
    assert speed_ratio(tokens, seconds * noise, tokens, seconds, seed=0).p_value > 0.3


def test_pairs_stay_pairs() -> None:
    """Prompts differ fifty-fold, the methods by 2 % on each: only pairing sees it."""
    rng = np.random.default_rng(0)
    seconds = rng.uniform(0.1, 5.0, 40)
    tokens = np.full(40, 10.0)
    found = speed_ratio(tokens, seconds / (1.02 + 0.005 * rng.standard_normal(40)), tokens, seconds, seed=1)
    assert 1.015 < found.low < found.high < 1.025 and found.p_value < 0.001
