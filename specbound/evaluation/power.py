"""How large a difference a measurement can show: spread between prompts and between rounds, and what they ask for.

Knows only arrays of seconds.
"""

# B prompts, R rounds

import math
from dataclasses import dataclass

import numpy as np

from specbound_controller.figures import share

EFFECT = 0.05
"""The difference in speed that a measurement is to show."""
Z_INTERVAL, Z_POWER = 1.96, 0.84
"""Of a 95 % interval, and of a difference that is found four times in five."""


@dataclass(frozen=True, slots=True)
class Power:
    """What it takes to tell two methods apart that differ by `EFFECT`."""

    num_prompts: int
    num_rounds: int
    between_prompts: float
    """Standard deviation of the ratio's logarithm from prompt to prompt, the share of the rounds taken out."""
    between_rounds: float
    """The same from round to round of one prompt; nan for one round, whose share then stays in the other."""

    def needed(self, num_rounds: int) -> int:
        """Prompts on which `EFFECT` shows four times in five, each decoded so many times."""
        noise = 0.0 if math.isnan(self.between_rounds) else self.between_rounds**2 / num_rounds
        variance = self.between_prompts**2 + noise
        return max(1, math.ceil((Z_INTERVAL + Z_POWER) ** 2 * variance / math.log1p(EFFECT) ** 2))

    def describe(self, method: str, other: str) -> str:
        """One line."""
        rounds = f"{self.num_rounds} round{'s' if self.num_rounds > 1 else ''}"
        noise = "" if math.isnan(self.between_rounds) else f", by {share(self.between_rounds)} from round to round"
        return (
            f"{method} over {other}: the ratio differs by {share(self.between_prompts)} from prompt to prompt{noise}; "
            f"{share(EFFECT)} more or less would show on about {self.needed(self.num_rounds)} prompts x {rounds} "
            f"(95 % interval, four times in five); these are {self.num_prompts}"
        )


def power(seconds: np.ndarray, other_seconds: np.ndarray) -> Power | None:
    """Of two methods that wrote the same tokens. (B, R) each; None for fewer than two prompts."""
    num_prompts, num_rounds = seconds.shape
    if num_prompts < 2:
        return None
    ratios = np.log(other_seconds / seconds)
    between = float(ratios.mean(axis=1).var(ddof=1))
    if num_rounds == 1:
        return Power(num_prompts, 1, math.sqrt(between), math.nan)
    within = float(ratios.var(axis=1, ddof=1).mean())
    return Power(num_prompts, num_rounds, math.sqrt(max(0.0, between - within / num_rounds)), math.sqrt(within))
