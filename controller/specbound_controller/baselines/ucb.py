"""A bandit over static actions, by upper confidence bounds (UCB1; BanditSpec, arXiv 2505.15141, does so for drafts).

The reward is tokens per modelled second, from the counts of each step and the cost table: no clock is read.
"""

# B sequences, R of them that take a step, K arms

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Self

import numpy as np

from specbound_controller.actions import Action
from specbound_controller.baselines.array_policy import ArrayPolicy, Taken
from specbound_controller.baselines.situation import Search, Settings, Situation
from specbound_controller.policy import AnnealedConfidence

NUM_ARMS = (3, 6)


class UpperConfidenceBandit(ArrayPolicy):
    """Plays the arm with the largest `speed + exploration * sqrt(ln t / n)`.

    An arm's speed is all its tokens over all its seconds, in plain decoding's; what is known of it beforehand counts as
    some steps of that speed. Every prompt begins anew.
    """

    needs_work = True

    def __init__(self, settings: "UcbSettings", situation: Situation) -> None:
        self._settings, self._situation = settings, situation
        scores = {"annealed": AnnealedConfidence(settings.alpha)}
        self.decisions = tuple(action.decision(scores) for action in settings.arms)
        self._base_s = situation.plain_seconds(0)
        self._per_context_s = (situation.plain_seconds(1000) - self._base_s) / 1000.0
        self.reset_batch(1)

    def reset_batch(self, num_sequences: int) -> None:
        known, speeds = self._settings.prior_steps, np.array(self._settings.prior_speeds)
        shape = (num_sequences, len(speeds))
        self.tokens = np.tile(known * speeds, (num_sequences, 1))
        """Of each arm. (B, K)"""
        self.seconds = np.full(shape, known)
        """In seconds of a token of plain decoding. (B, K)"""
        self.steps = np.full(shape, known)
        """(B, K)"""
        self._played = np.zeros(num_sequences, dtype=np.int64)

    def choose(self, features: np.ndarray | None, rows: np.ndarray) -> np.ndarray:
        steps = self.steps[rows]
        bonus = np.sqrt(np.log(steps.sum(axis=1, keepdims=True) + 1.0) / steps)
        values = self.tokens[rows] / self.seconds[rows] + self._settings.exploration * bonus
        chosen: np.ndarray = values.argmax(axis=1)
        self._played[rows] = chosen
        return chosen

    def learn(self, rows: np.ndarray, taken: Taken) -> None:
        plain_s = self._base_s + self._per_context_s * taken.context_length
        arm = self._played[rows]
        self.tokens[rows, arm] += taken.num_emitted
        self.seconds[rows, arm] += self._situation.costs.seconds(taken.work) / plain_s
        self.steps[rows, arm] += 1.0


@dataclass(frozen=True, slots=True)
class UcbSettings(Settings):
    """Its arms and constants."""

    arms: tuple[Action, ...]
    """Static actions. (K,)"""
    prior_speeds: tuple[float, ...]
    """Speed of each arm over plain decoding on the training prompts. (K,)"""
    prior_steps: float
    """Steps that this counts for, above 0."""
    exploration: float
    """What the width of a confidence bound is multiplied with, at least 0."""
    alpha: float = 0.0
    """Strength of annealing, for arms with a threshold."""

    def __post_init__(self) -> None:
        if not self.arms or len(self.arms) != len(self.prior_speeds):
            raise ValueError(f"arms need a prior speed each, got {len(self.arms)} and {len(self.prior_speeds)}")
        if any(arm.score == "learned" for arm in self.arms):
            raise ValueError("arms must not need a controller's score")
        if not self.prior_steps > 0 or not self.exploration >= 0 or not self.alpha >= 0:
            raise ValueError("prior_steps must be > 0, exploration and alpha >= 0")

    @classmethod
    def candidates(cls, search: Search) -> Iterator[Self]:
        """Bandits over the fastest action of each width, or of each exit layer."""
        ranked = sorted(zip(search.actions, search.speedups, strict=True), key=lambda pair: -pair[1])
        for attribute, num_arms in product(("width", "exit_layer"), NUM_ARMS):
            fastest: dict[int, tuple[Action, float]] = {}
            for action, speed in ranked:
                fastest.setdefault(getattr(action, attribute), (action, speed))
            chosen, known = zip(*list(fastest.values())[:num_arms], strict=True)
            for prior_steps, exploration in product((1.0, 10.0), (0.02, 0.1, 0.3)):
                yield cls(chosen, known, prior_steps, exploration, search.alpha)

    def policy(self, situation: Situation) -> UpperConfidenceBandit:
        """A fresh one."""
        return UpperConfidenceBandit(self, situation)
