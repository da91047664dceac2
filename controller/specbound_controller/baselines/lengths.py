"""Policies that move the draft length of one exit layer after every step, by how many of its drafts were accepted."""

# R sequences that take a step

from abc import abstractmethod
from dataclasses import dataclass
from itertools import product
from typing import Self

import numpy as np

from specbound_controller.baselines.array_policy import ArrayPolicy, Taken
from specbound_controller.baselines.situation import Search, Settings, Situation, check_draft, check_share
from specbound_controller.records import Decision


class LengthPolicy(ArrayPolicy):
    """A wanted length for each sequence, a real number; the draft is that long to the nearest token."""

    def __init__(self, exit_layer: int, start: float, longest: int) -> None:
        self.decisions = tuple(Decision(w_max=w, thresholds={exit_layer: 0.0}) for w in range(1, longest + 1))
        self.start, self.longest = start, longest
        self.reset_batch(1)

    def reset_batch(self, num_sequences: int) -> None:
        self.wanted = np.full(num_sequences, float(self.start))

    def choose(self, features: np.ndarray | None, rows: np.ndarray) -> np.ndarray:
        return self._lengths(rows) - 1

    def learn(self, rows: np.ndarray, taken: Taken) -> None:
        is_full = taken.num_accepted == self._lengths(rows)
        self.wanted[rows] = self.moved(self.wanted[rows], taken.num_accepted, is_full)

    def _lengths(self, rows: np.ndarray) -> np.ndarray:
        lengths: np.ndarray = np.clip(np.floor(self.wanted[rows] + 0.5), 1, self.longest).astype(np.int64)
        return lengths

    @abstractmethod
    def moved(self, wanted: np.ndarray, accepted: np.ndarray, is_full: np.ndarray) -> np.ndarray:
        """The wanted lengths after steps that accepted so many; is_full: the whole draft as asked for. (R,) each"""


class HeuristicLength(LengthPolicy):
    """Two tokens more after a draft that was accepted as a whole, one less after any other."""

    def moved(self, wanted: np.ndarray, accepted: np.ndarray, is_full: np.ndarray) -> np.ndarray:
        length: np.ndarray = np.clip(wanted + np.where(is_full, 2.0, -1.0), 1.0, self.longest)
        return length


class AveragedLength(LengthPolicy):
    """The running mean of accepted lengths; a draft that was accepted as a whole counts as longer than it was."""

    def __init__(self, exit_layer: int, start: int, longest: int, rate: float, stretch: float) -> None:
        self.rate, self.stretch = rate, stretch
        super().__init__(exit_layer, start, longest)

    def moved(self, wanted: np.ndarray, accepted: np.ndarray, is_full: np.ndarray) -> np.ndarray:
        seen = accepted + self.stretch * is_full
        length: np.ndarray = np.clip(wanted + self.rate * (seen - wanted), 1.0, self.longest)
        return length


@dataclass(frozen=True, slots=True)
class HeuristicSettings(Settings):
    """transformers' schedule `heuristic` for the length of assisted generation."""

    exit_layer: int
    start: int
    """Length of a prompt's first draft."""
    longest: int
    """Longest draft; transformers has no bound."""

    def __post_init__(self) -> None:
        check_draft(self.exit_layer, self.start, self.longest)

    @classmethod
    def candidates(cls, search: Search) -> list[Self]:
        """transformers begins with 20; shorter beginnings are kinder to prompts of a few dozen tokens."""
        return [cls(*each) for each in product(search.exit_layers, (1, 2, 4, 8), (8, 20))]

    def policy(self, situation: Situation) -> HeuristicLength:
        """A fresh one."""
        return HeuristicLength(self.exit_layer, self.start, self.longest)


@dataclass(frozen=True, slots=True)
class GammaTuneSettings(Settings):
    """GammaTune (arXiv 2504.00030): the length follows an exponential average of the accepted length, and grows where
    whole drafts are accepted, because the average of what was cut off cannot.

    The rule is written from the paper's description; `rate` and `stretch` stand for its constants.
    """

    exit_layer: int
    start: int
    """Length of a prompt's first draft."""
    longest: int
    """Longest draft."""
    rate: float
    """Share of the newest step in the average."""
    stretch: float
    """Tokens by which a draft that was accepted as a whole counts as longer."""

    def __post_init__(self) -> None:
        check_draft(self.exit_layer, self.start, self.longest)
        check_share(rate=self.rate)
        if not self.stretch >= 0.0:
            raise ValueError(f"stretch must be >= 0, got {self.stretch}")

    @classmethod
    def candidates(cls, search: Search) -> list[Self]:
        return [cls(*each) for each in product(search.exit_layers, (1, 3), (4, 8), (0.2, 0.5), (1.0, 2.0))]

    def policy(self, situation: Situation) -> AveragedLength:
        """A fresh one."""
        return AveragedLength(self.exit_layer, self.start, self.longest, self.rate, self.stretch)
