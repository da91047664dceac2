"""Trees whose nodes must pay: sizes by the cost table of this machine, and never slower than plain decoding for long.

A node is kept where the tokens that are expected of it exceed what its row costs, in tokens at the policy's own speed.
That speed is a running ratio of tokens to modelled seconds, so that a replay comes to the same decisions. In a batch
the first row of a new block pays for all of it, so there the nodes of all sequences are chosen together.
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from specbound_controller.by_rows import ByRows
from specbound_controller.costs import ROW_KNOTS, CostTable, work_vector
from specbound_controller.guard import NeverSlowerGuard
from specbound_controller.records import Decision, StepRecord
from specbound_controller.trees.plan import TreePlan
from specbound_controller.work import step_seconds

PRIOR_TOKENS = 32.0
"""Tokens at plain decoding's speed that the running ratio begins with."""
STALE = 0.02
"""Relative change of the speed from which on prices in tokens are taken anew."""
CONTEXT = 512
"""Tokens of context at which rows are priced."""


def row_seconds(costs: CostTable, num_layers: int, max_nodes: int) -> np.ndarray:
    """Modelled seconds of a tree step with n draft tokens, for n = 0 .. max_nodes. (max_nodes + 1,)"""
    rows = range(1, max_nodes + 2)
    return costs.seconds(np.array([work_vector({n: num_layers}, {n: 1}, 0, CONTEXT, num_decisions=0) for n in rows]))


@dataclass(frozen=True, slots=True)
class _BatchPrices:
    """What tree steps cost one of so many sequences that share the calls."""

    alone_s: np.ndarray
    """Seconds of its part of a step with 0 .. n draft tokens, where the others draft as many. (n + 1,)"""
    together_s: np.ndarray
    """Seconds of a whole step with 0 .. m draft tokens of all rows; none for one sequence. (m + 1,)"""

    @staticmethod
    def of(costs: CostTable, num_layers: int, max_nodes: int, num_rows: int) -> "_BatchPrices":
        alone_s = row_seconds(costs.shared(num_rows), num_layers, max_nodes)
        if num_rows == 1:
            return _BatchPrices(alone_s, np.empty(0))
        most = max(num_rows, min(num_rows * (1 + max_nodes), ROW_KNOTS[-1]))
        return _BatchPrices(alone_s, row_seconds(costs, num_layers, most - 1)[num_rows - 1 :])


class PricedTreePolicy:
    """Best-first trees of at most `plan.max_nodes` nodes, each of which pays its row; guarded."""

    needs_features = False
    needs_full_signals = False

    def __init__(self, plan: TreePlan, costs: CostTable, num_layers: int) -> None:
        """costs: of this machine, at the compression and exactness that steps run on."""
        self.plan, self.costs = plan, costs
        self.guard = NeverSlowerGuard(costs, num_layers, is_adaptive=False)
        self._num_rows = 1
        self._by_rows = ByRows(partial(_BatchPrices.of, costs, num_layers, plan.max_nodes))
        self._prices = self._by_rows(1)
        self._plain = Decision(0)
        self.reset()

    def share(self, num_rows: int) -> None:
        """So many sequences share the calls of the coming steps: rows cost what they cost one of them."""
        if num_rows == self._num_rows:
            return
        self._num_rows = num_rows
        self.guard.share(num_rows)
        plain_s = self._plain_s
        self._prices = self._by_rows(num_rows)
        self._spent_s *= self._plain_s / plain_s
        self._price(self._tokens / self._spent_s)

    def reset(self) -> None:
        """Forgets the last prompt."""
        self.guard.reset()
        self._tokens, self._spent_s = PRIOR_TOKENS, PRIOR_TOKENS * self._plain_s
        self._price(self._tokens / self._spent_s)

    def decide(self, features: np.ndarray | None) -> Decision:
        """A tree at today's prices, or plain decoding while the guard is closed."""
        if self.guard.is_paused:
            return self._plain
        speed = self._tokens / self._spent_s
        if abs(speed / self._speed - 1.0) > STALE:
            self._price(speed)
        return self._decision

    def observe(self, record: StepRecord) -> None:
        """Books tokens and modelled seconds."""
        if self._num_rows > 1:
            seconds = self._part_s(record.num_drafted)
        else:
            seconds = step_seconds(record, self.guard.prices, is_adaptive=False)
        self.guard.book(seconds, record)
        self._tokens += record.num_emitted
        self._spent_s += seconds

    @property
    def _plain_s(self) -> float:
        """Seconds of a plain step, or of a sequence's part of it."""
        return float(self._prices.alone_s[0])

    def _part_s(self, num_drafted: int) -> float:
        """A sequence's part of a step of the batch: a draft token costs what it does where each row has one."""
        one_s = float(self._prices.alone_s[1])
        return self._plain_s + num_drafted * (one_s - self._plain_s)

    def _price(self, speed: float) -> None:
        """speed: tokens per second that a second spent on rows could have brought."""
        self._speed = speed
        self._decision = Decision(self.plan.max_depth, tree=self._priced(speed))

    def _priced(self, speed: float) -> TreePlan:
        seconds = self._prices.alone_s if self._num_rows == 1 else self._prices.together_s
        costs = (seconds - seconds[0]) * speed
        if self._num_rows == 1:
            return replace(self.plan, node_costs=tuple(costs.tolist()))
        if len(costs) == 1:
            return replace(self.plan, max_nodes=0)
        cheapest = float((costs[1:] / np.arange(1, len(costs))).min())  # no node below it pays in any company
        most = min(self.plan.max_nodes, len(costs) - 1)
        return replace(self.plan, max_nodes=most, min_survival=cheapest, shared_costs=tuple(costs.tolist()))
