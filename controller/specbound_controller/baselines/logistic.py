"""Acceptance by a logistic regression for each draft position, priced with the cost table: what vLLM's rule is here.

A token is drafted while the probability that it is accepted, all before it being so too, is worth more than what it
costs: `survival >= rho * seconds`, `rho` being the policy's long-run tokens per second.
"""

# S signals (less the draft index), J longest draft

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from specbound_controller.baselines.situation import Settings, Situation, check_draft
from specbound_controller.mlp import sigmoid
from specbound_controller.policy import FixedPolicy
from specbound_controller.records import Decision, ExitSignals
from specbound_controller.score import SIGNAL_NAMES, signal_values
from specbound_controller.work import single_exit_work

NUM_INPUTS = SIGNAL_NAMES.index("draft_index")
"""Signals of an exit that the regressions read: all but the last one, the draft index, which chooses among them."""


class LogisticScore:
    """The probability of acceptance at each draft position, times a factor.

    Under the rule `product` factors multiply too, so that one threshold can stand for a price of each position.
    """

    def __init__(self, weights: Sequence[Sequence[float]], factors: Sequence[float]) -> None:
        """weights: for each draft position one for each signal, then the offset, (J, S + 1). factors: (J,)"""
        self._rows = [(tuple(row[:-1]), row[-1], factor) for row, factor in zip(weights, factors, strict=True)]
        self._weights, self._factors = np.array(weights, dtype=np.float64), np.array(factors, dtype=np.float64)

    @property
    def is_learned(self) -> bool:
        """Not by a network: a handful of products, part of an exit test."""
        return False

    def temperature(self, exit_layer: int, num_layers: int) -> float:
        """Plain softmax: the annealed confidence is not read."""
        return 1.0

    def __call__(self, signals: ExitSignals, features: np.ndarray | None) -> float:
        weights, offset, factor = self._rows[signals.draft_index]
        logit = offset + sum(w * x for w, x in zip(weights, signal_values(signals)[:NUM_INPUTS], strict=True))
        return factor * 0.5 * (math.tanh(0.5 * logit) + 1.0)

    def probabilities_at(self, signals: np.ndarray, exit_layers: np.ndarray, features: np.ndarray) -> np.ndarray:
        """The same for arrays. signals: (R, S + 1), the draft index last -> (R,) float64"""
        place = signals[:, NUM_INPUTS].astype(np.int64)
        weights = self._weights[place]
        logits = (weights[:, :-1] * signals[:, :NUM_INPUTS].astype(np.float64)).sum(axis=1) + weights[:, -1]
        values: np.ndarray = self._factors[place] * sigmoid(logits)
        return values


@dataclass(frozen=True, slots=True)
class LogisticSettings(Settings):
    """The regressions of one exit layer, and what the price of a token is reckoned from."""

    exit_layer: int
    weights: tuple[tuple[float, ...], ...]
    """For each draft position a weight for each signal, then the offset; as many positions as the longest draft.
    (J, S + 1)"""
    speedup: float
    """Long-run speed of this policy over plain decoding, found on the training prompts; times plain decoding's speed
    by a cost table it is the price of a second there, in tokens."""
    context_length: int
    """Committed tokens at which work is priced."""

    def __post_init__(self) -> None:
        check_draft(self.exit_layer, len(self.weights))
        if any(len(row) != NUM_INPUTS + 1 for row in self.weights):
            raise ValueError(f"weights must be rows of {NUM_INPUTS + 1}, one for each signal and the offset")
        if not self.speedup > 0 or self.context_length < 0:
            raise ValueError(
                f"speedup must be > 0 and context_length >= 0, got {self.speedup} and {self.context_length}"
            )

    def policy(self, situation: Situation) -> FixedPolicy:
        """The same rule at every step; plain decoding where not even a token that is sure to be accepted pays."""
        prices = self.prices(situation)
        threshold = self.speedup / situation.plain_seconds(self.context_length) * float(prices[0])
        if threshold > 1.0:
            return FixedPolicy(Decision(w_max=0))
        factors = np.concatenate(([1.0], prices[:-1] / prices[1:]))
        decision = Decision(
            w_max=len(self.weights),
            thresholds={self.exit_layer: threshold},
            score=LogisticScore(self.weights, factors.tolist()),
            combine="product",
        )
        return FixedPolicy(decision)

    def prices(self, situation: Situation) -> np.ndarray:
        """Seconds that each further token adds to a draft, the test that ends the draft after it included. (J,)"""
        longest = len(self.weights)
        reads = [min(count + 1, longest) for count in range(longest + 1)]
        work = [
            single_exit_work(self.exit_layer, situation.num_layers, count, reads[count], True, self.context_length)
            for count in range(longest + 1)
        ]
        # a draft as long as may be is not tested once more: that token is the cheapest, yet never free
        added: np.ndarray = np.maximum(np.diff(situation.costs.seconds(np.array(work))), 1e-12)
        return added
