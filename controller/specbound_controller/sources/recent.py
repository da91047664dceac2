"""How often each source's first candidate was the next token lately: a running mean over the committed text.

A function of the text alone, not of the steps that it was drafted in, so that a log says it at every position.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

START = 0.25
"""Before a source has proposed anything."""
SHARE = 0.125
"""Weight of the newest outcome."""

Mean = TypeVar("Mean", float, np.ndarray)


class RecentHits:
    """The running means of some sources."""

    def __init__(self, names: Sequence[str]) -> None:
        self.means = dict.fromkeys(names, START)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the sources."""
        return tuple(self.means)

    def of(self, names: Sequence[str]) -> list[float]:
        """Their running means; of a source that is not watched what it begins with."""
        return [self.means.get(name, START) for name in names]

    def see(self, name: str, is_hit: bool) -> None:
        """A source proposed something, and its first candidate was right or wrong."""
        self.means[name] = after(self.means[name], float(is_hit))


def after(mean: Mean, outcome: Mean) -> Mean:
    """The running mean after one more outcome, 1 or 0."""
    found: Mean = mean + (outcome - mean) * SHARE
    return found
