"""Draft & Verify (arXiv 2309.08168): a draft ends where its confidence is below a threshold that moves by feedback."""

# R sequences that take a step

from dataclasses import dataclass
from itertools import product
from typing import Self

import numpy as np

from specbound_controller.baselines.array_policy import ArrayPolicy, Taken
from specbound_controller.baselines.situation import Search, Settings, Situation, check_draft, check_share
from specbound_controller.policy import AnnealedConfidence
from specbound_controller.records import Decision

MATCH_MEMORY = 0.5
"""Share of the old running mean of acceptance in the new one (the paper's beta 1)."""
MEMORY = 0.9
"""Share of the old threshold in the new one (its beta 2)."""


class DraftVerify(ArrayPolicy):
    """The threshold moves by `(1 - MEMORY) * step` at a time, so it is kept as a count of such moves.

    A running mean of the acceptance rate, 0 at first: below the target the threshold rises; else it falls, but stays
    where the draft had its full length. In the paper a token below the threshold is drafted and ends the draft; here
    it is not drafted, as by every threshold of this decoder. So a step may draft nothing: nothing was wrong then, it
    counts as all accepted, and the threshold comes down again.
    """

    def __init__(self, exit_layer: int, width: int, start: float, target: float, step: float) -> None:
        self.width, self.target = width, target
        move = (1.0 - MEMORY) * step
        # never at 0, where nothing would be tested
        self._lowest, self._highest = -int((start - 1e-9) / move), int((1.0 - start) / move + 1e-9)
        thresholds = [start + move * count for count in range(self._lowest, self._highest + 1)]
        score = AnnealedConfidence(0.0)
        self.decisions = tuple(Decision(w_max=width, thresholds={exit_layer: t}, score=score) for t in thresholds)
        self.reset_batch(1)

    def reset_batch(self, num_sequences: int) -> None:
        self.moves = np.zeros(num_sequences, dtype=np.int64)
        """Where each threshold stands, in moves from where it began. (B,)"""
        self.matched = np.zeros(num_sequences)
        """Running mean of the acceptance rate. (B,)"""

    def choose(self, features: np.ndarray | None, rows: np.ndarray) -> np.ndarray:
        chosen: np.ndarray = self.moves[rows] - self._lowest
        return chosen

    def learn(self, rows: np.ndarray, taken: Taken) -> None:
        drafted = taken.num_drafted
        rate = np.where(drafted > 0, taken.num_accepted / np.maximum(drafted, 1), 1.0)
        matched = MATCH_MEMORY * self.matched[rows] + (1.0 - MATCH_MEMORY) * rate
        change = np.where(matched < self.target, 1, np.where(drafted == self.width, 0, -1))
        self.matched[rows] = matched
        self.moves[rows] = np.clip(self.moves[rows] + change, self._lowest, self._highest)


@dataclass(frozen=True, slots=True)
class DraftVerifySettings(Settings):
    """Its constants; the paper's are target 0.9 and step 0.01."""

    exit_layer: int
    width: int
    """Longest draft."""
    start: float
    """Threshold on the confidence at the beginning of a prompt."""
    target: float
    """Acceptance rate that the threshold aims at."""
    step: float = 0.01
    """What the threshold rises or falls by, before it is smoothed."""

    def __post_init__(self) -> None:
        check_draft(self.exit_layer, self.width)
        check_share(target=self.target)
        check_share(least=0.01, start=self.start)
        check_share(least=1e-3, step=self.step)

    @classmethod
    def candidates(cls, search: Search) -> list[Self]:
        """Targets and steps around the paper's 0.9 and 0.01, which was made for outputs ten times as long."""
        values = product(search.exit_layers, (2, 4, 8), (0.1, 0.3, 0.6), (0.6, 0.9), (0.01, 0.1))
        return [cls(*each) for each in values]

    def policy(self, situation: Situation) -> DraftVerify:
        """A fresh one."""
        return DraftVerify(self.exit_layer, self.width, self.start, self.target, self.step)
