"""Counter-based noise: the published generator, a Gumbel distribution, one value per (seed, position, token)."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from specbound.decoding.noise import GOLDEN, MASK64, NOISE_RANGE, gumbel_noise, mix64, random_bits

IDS = torch.arange(4096)


def test_the_generator_gives_the_published_numbers_of_splitmix64() -> None:
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [mix64((1234567 + (i + 1) * GOLDEN) & MASK64) for i in range(4)] == published


def test_the_tensor_version_equals_integer_arithmetic() -> None:
    for seed, position in ((0, 0), (7, 123), (-3, 5), (2**63 - 1, 2**20)):
        key = mix64((mix64(seed & MASK64) + position) & MASK64)
        expected = [mix64((key + (i + 1) * GOLDEN) & MASK64) for i in range(50)]
        assert [bits & MASK64 for bits in random_bits(seed, position, torch.arange(50)).tolist()] == expected


def test_noise_is_a_function_of_seed_position_and_token_alone() -> None:
    whole = gumbel_noise(3, 9, IDS)
    some = torch.tensor([5, 4000, 17])
    assert torch.equal(gumbel_noise(3, 9, some), whole[some])
    assert torch.equal(gumbel_noise(3, 9, IDS.view(2, 2048)).view(-1), whole)
    assert not torch.equal(gumbel_noise(3, 10, IDS), whole)
    assert not torch.equal(gumbel_noise(4, 9, IDS), whole)


def test_noise_is_gumbel_distributed_and_uncorrelated_between_positions_seeds_and_tokens() -> None:
    noise = np.concatenate([gumbel_noise(1, position, IDS).numpy() for position in range(50)])
    assert stats.kstest(noise, stats.gumbel_r.cdf).pvalue > 0.01
    for other in (gumbel_noise(1, 1, IDS), gumbel_noise(2, 0, IDS), gumbel_noise(1, 0, IDS).roll(1)):
        correlation = np.corrcoef(gumbel_noise(1, 0, IDS).numpy(), other.numpy())[0, 1]
        assert abs(correlation) < 4 / math.sqrt(len(IDS))


def test_the_range_holds_for_the_most_extreme_bits() -> None:
    """Of 2^53 steps the first and the last but one; the last rounds to a noise of minus infinity, which never wins."""
    smallest, largest = 0.5 * 2.0**-53, 1.0 - 1.5 * 2.0**-53
    extremes = [-math.log(-math.log1p(-fraction)) for fraction in (smallest, largest)]
    assert extremes[0] - extremes[1] < NOISE_RANGE


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_argmax_of_scores_and_noise_samples_their_softmax(seed: int) -> None:
    scores = torch.randn(12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 1.5
    draws = [int((scores + gumbel_noise(seed, position, torch.arange(12))).argmax()) for position in range(6_000)]
    counts = np.bincount(draws, minlength=12)
    expected = scores.softmax(0).numpy() * len(draws)
    assert stats.chisquare(counts, expected).pvalue > 0.01
