"""Sampling noise that belongs to a position and a token, whoever asks and whenever. Knows no model and no sampler.

A counter-based generator (SplitMix64; Steele, Lea and Flood 2014): the noise of a token at a position is a function of
(seed, position, token id) alone. Draft and verification, one row or many, CPU or GPU, all see the same noise, so that
speculative sampling gives the tokens that plain sampling gives with that seed.
"""

from torch import Tensor

MASK64 = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
"""Increment of SplitMix64's counter."""
MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
NOISE_RANGE = 42.0
"""Largest less smallest value that `gumbel_noise` can give: 37.4 + 3.7, rounded up."""


def mix64(value: int) -> int:
    """SplitMix64's output function on one unsigned 64-bit integer."""
    value = ((value ^ (value >> 30)) * MULTIPLIERS[0]) & MASK64
    value = ((value ^ (value >> 27)) * MULTIPLIERS[1]) & MASK64
    return value ^ (value >> 31)


def position_key(seed: int, position: int) -> int:
    """What is added to the counters of a position's tokens, unsigned."""
    return mix64((mix64(seed & MASK64) + position) & MASK64)


def random_bits(seed: int, position: int, token_ids: Tensor) -> Tensor:
    """64 random bits for each token at one position. token_ids: int64 of any shape, returns int64 of that shape."""
    state = (token_ids + 1).mul_(_signed(GOLDEN)).add_(_signed(position_key(seed, position)))
    for shift, multiplier in zip((30, 27), MULTIPLIERS, strict=True):
        state = state.bitwise_xor_(_shifted(state, shift)).mul_(_signed(multiplier))
    return state.bitwise_xor_(_shifted(state, 31))


def gumbel_noise(seed: int, position: int, token_ids: Tensor) -> Tensor:
    """Standard Gumbel noise for each token at one position. int64 -> float64 of the same shape.

    `argmax(log p + noise)` is a sample of p. The bits are equal on every device; the two logarithms are taken in
    float64, so that a device's rounding cannot change an argmax but by a tie in the sixteenth digit.
    """
    fraction = _shifted(random_bits(seed, position, token_ids), 11).double().add_(0.5).mul_(2.0**-53)
    return fraction.neg_().log1p_().neg_().log_().neg_()


def _shifted(state: Tensor, count: int) -> Tensor:
    """A logical shift to the right; torch's own keeps the sign."""
    return (state >> count).bitwise_and_((1 << (64 - count)) - 1)


def _signed(value: int) -> int:
    """The int64 with the bits of an unsigned integer."""
    return value - (1 << 64) if value >> 63 else value
