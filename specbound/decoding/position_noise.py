"""Scores with the noise of their position: each position's noise is made once, of tokens that can win alone.

Draft and verification of a position ask one after the other, and drafts that were rejected leave noise to the next
step. On the CPU a token's noise is computed only where its score and its random bits let it be one of the two best;
on a device, where looking would make the host wait, all of them are. Knows no logits processors and no tokens.
"""

import functools
import math

import numpy as np
import torch
from torch import Tensor

from specbound.decoding.noise import GOLDEN, MULTIPLIERS, NOISE_RANGE, gumbel_noise, position_key

# V vocabulary, k tokens that can win, n rows

FEW_TOKENS = 1024
"""So many are given noise without looking at their bits."""
NEAR = 4.0
"""Tokens whose scores are so close to the best one say how much noise the others need."""
SLACK = 1.001
"""More than the rounding of 32 bits moves a bound."""
FRACTION = np.float32(2.0**-53)


class PositionNoise:
    """The noise of one sequence."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._fractions: dict[int, np.ndarray] = {}
        """Position -> what the noise of each token falls with, (V,) float32, where it was asked for."""
        self._whole: dict[int, Tensor] = {}
        """Position -> noise of all tokens, (V,) float64, on a device."""

    def forget(self, position: int) -> None:
        """Drops a position, whose token is settled."""
        self._fractions.pop(position, None)
        self._whole.pop(position, None)

    def noised(self, row: Tensor, position: int) -> tuple[Tensor, Tensor]:
        """Scores (V,) with noise, (k,) float64, and the tokens they belong to, (k,) int64, in order of their ids.

        Scores count from the best one, in 64 bits: there noise is not lost beside them, however large they are. The
        two best tokens of the position are among the k.
        """
        if row.device.type != "cpu":
            noise = self._noise(position, row.shape[0], row.device)
            return row.double().sub_(row.amax().double()).add_(noise), torch.arange(row.shape[0], device=row.device)
        scores = row.detach()
        values = (scores if scores.dtype in (torch.float32, torch.float64) else scores.float()).numpy()
        tokens = self._contenders(values, position)
        with np.errstate(invalid="ignore"):
            below = values[tokens].astype(np.float64) - np.float64(values.max())
        return torch.from_numpy(below + host_noise(self.seed, position, tokens)), torch.from_numpy(tokens)

    def noised_rows(self, rows: Tensor, position: int) -> Tensor:
        """The same for rows of the positions from `position` on, with all tokens. (n, V) -> (n, V) float64"""
        count, vocab_size = rows.shape
        noise = [self._noise(position + index, vocab_size, rows.device) for index in range(count)]
        return rows.double().sub_(rows.amax(-1, keepdim=True).double()).add_(torch.stack(noise))

    def _noise(self, position: int, vocab_size: int, device: torch.device) -> Tensor:
        """(V,) float64"""
        noise = self._whole.get(position)
        if noise is None:
            noise = gumbel_noise(self.seed, position, torch.arange(vocab_size, device=device))
            self._whole[position] = noise
        return noise

    def _contenders(self, scores: np.ndarray, position: int) -> np.ndarray:
        """Tokens that can be one of the two best. (V,) -> (k,) int64"""
        best = scores.max()
        if not math.isfinite(best):  # nan, +inf or all at -inf: the caller sees it in the sum
            all_best = np.flatnonzero(scores >= best)
            return all_best if len(all_best) else np.array([scores.argmax()])
        below = (scores - best).astype(np.float32, copy=False)
        is_possible = below >= -NOISE_RANGE
        if np.count_nonzero(is_possible) <= FEW_TOKENS:
            return np.flatnonzero(is_possible)
        return np.flatnonzero(self._fraction(position, len(scores)) <= self._limits(below, position))

    def _limits(self, below: np.ndarray, position: int) -> np.ndarray:
        """The largest fraction with which each token could reach the second best of those that are near the best one.

        below: (V,) float32. Noise above t has a fraction below 1 - exp(-exp(-t)) <= exp(-t).
        """
        near = np.flatnonzero(below >= -NEAR)
        if len(near) < 2:
            near = np.argpartition(below, -2)[-2:]
        second = np.partition(below[near] + host_noise(self.seed, position, near), -2)[-2]
        limits: np.ndarray = np.exp(below - np.float32(second))
        limits *= np.float32(SLACK)
        return limits

    def _fraction(self, position: int, vocab_size: int) -> np.ndarray:
        """The random number in [0, 1) of each token from which its noise is made. (V,) float32"""
        fraction = self._fractions.get(position)
        if fraction is None:
            bits = _mixed(_counters(vocab_size) + np.uint64(position_key(self.seed, position)))
            bits >>= np.uint64(11)
            fraction = bits.view(np.int64).astype(np.float32)
            fraction *= FRACTION
            self._fractions[position] = fraction
        return fraction


def host_noise(seed: int, position: int, tokens: np.ndarray) -> np.ndarray:
    """`noise.gumbel_noise` to the bit. On the host numpy's integers take half the time of torch's. int64 -> float64"""
    state = (tokens + 1).view(np.uint64) * np.uint64(GOLDEN) + np.uint64(position_key(seed, position))
    bits = _mixed(state)
    bits >>= np.uint64(11)
    negative = bits.view(np.int64).astype(np.float64)
    negative += 0.5
    negative *= -(2.0**-53)
    noise: np.ndarray = torch.from_numpy(negative).log1p_().neg_().log_().neg_().numpy()  # numpy's logarithms differ
    return noise


def _mixed(state: np.ndarray) -> np.ndarray:
    """SplitMix64's output function, in place. uint64"""
    shifted = np.empty_like(state)
    for shift, multiplier in zip((30, 27), MULTIPLIERS, strict=True):
        np.right_shift(state, np.uint64(shift), out=shifted)
        state ^= shifted
        state *= np.uint64(multiplier)
    np.right_shift(state, np.uint64(31), out=shifted)
    state ^= shifted
    return state


@functools.lru_cache(maxsize=4)
def _counters(vocab_size: int) -> np.ndarray:
    """What SplitMix64 adds to a key for each token. (V,) uint64"""
    counters: np.ndarray = np.arange(1, vocab_size + 1, dtype=np.uint64) * np.uint64(GOLDEN)
    return counters
