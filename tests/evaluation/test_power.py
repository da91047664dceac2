"""How many prompts a difference takes to show: against simulated measurements."""

import math

import numpy as np
import pytest

from specbound.evaluation.power import EFFECT, Power, power


def measured(
    rng: np.random.Generator, num_prompts: int, num_rounds: int, ratio: float
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of two methods: 10 % from prompt to prompt, 4 % from round to round."""
    other = rng.uniform(1.0, 3.0, (num_prompts, 1)) * np.ones(num_rounds)
    spread = rng.normal(0, 0.10, (num_prompts, 1)) + rng.normal(0, 0.04, (num_prompts, num_rounds))
    return other / (ratio * np.exp(spread)), other


def test_the_parts_of_the_spread_are_found() -> None:
    found = power(*measured(np.random.default_rng(0), 4000, 3, 1.2))
    assert found is not None and found.num_prompts == 4000
    assert found.between_prompts == pytest.approx(0.10, rel=0.05)
    assert found.between_rounds == pytest.approx(0.04, rel=0.05)
    assert found.needed(1) > found.needed(3) > found.needed(1000) - 1


def test_on_so_many_prompts_the_difference_shows_four_times_in_five() -> None:
    rng = np.random.default_rng(1)
    found = power(*measured(rng, 4000, 2, 1.0))
    assert found is not None
    shown = 0
    for _ in range(400):
        seconds, other = measured(rng, found.needed(2), 2, 1.0 + EFFECT)
        ratios = np.log(other / seconds).mean(axis=1)
        shown += ratios.mean() > 1.96 * ratios.std(ddof=1) / math.sqrt(len(ratios))
    assert 0.75 < shown / 400 < 0.86


def test_one_round_says_nothing_of_rounds_and_one_prompt_nothing_at_all() -> None:
    seconds, other = measured(np.random.default_rng(2), 30, 1, 1.1)
    found = power(seconds, other)
    assert found is not None and math.isnan(found.between_rounds) and found.needed(1) == found.needed(9)
    assert power(seconds[:1], other[:1]) is None


def test_the_line_says_what_it_takes() -> None:
    line = Power(12, 3, 0.1, 0.04).describe("controller", "best static")
    assert line == (
        "controller over best static: the ratio differs by 10% from prompt to prompt, by 4% from round to round; 5% "
        "more or less would show on about 35 prompts x 3 rounds (95 % interval, four times in five); these are 12"
    )
