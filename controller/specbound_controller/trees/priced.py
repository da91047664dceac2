"""Trees whose nodes must pay: sizes by the cost table of this machine, and never slower than plain decoding for long.

A node is kept where the tokens that are expected of it exceed what its row costs, in tokens at the policy's own speed.
That speed is a running ratio of tokens to modelled seconds, so that a replay comes to the same decisions.
"""

from dataclasses import replace
from functools import partial

import numpy as np

from specbound_controller.by_rows import ByRows
from specbound_controller.costs import CostTable, work_vector
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


def _shared_seconds(alone: CostTable, num_layers: int, max_nodes: int, num_rows: int) -> np.ndarray:
    """The same for one of so many sequences that share the calls."""
    return row_seconds(alone.shared(num_rows), num_layers, max_nodes)


class PricedTreePolicy:
    """Best-first trees of at most `plan.max_nodes` nodes, each of which pays its row; guarded."""

    needs_features = False
    needs_full_signals = False

    def __init__(self, plan: TreePlan, costs: CostTable, num_layers: int) -> None:
        """costs: of this machine, at the compression and exactness that steps run on."""
        self.plan, self.costs = plan, costs
        self.guard = NeverSlowerGuard(costs, num_layers, is_adaptive=False)
        self._num_rows = 1
        self._by_rows = ByRows(partial(_shared_seconds, costs, num_layers, plan.max_nodes))
        self._seconds = self._by_rows(1)
        self._plain = Decision(0)
        self.reset()

    def share(self, num_rows: int) -> None:
        """So many sequences share the calls of the coming steps: rows cost what they cost one of them."""
        if num_rows == self._num_rows:
            return
        self._num_rows = num_rows
        self.guard.share(num_rows)
        plain_s = float(self._seconds[0])
        self._seconds = self._by_rows(num_rows)
        self._spent_s *= float(self._seconds[0]) / plain_s
        self._price(self._tokens / self._spent_s)

    def reset(self) -> None:
        """Forgets the last prompt."""
        self.guard.reset()
        self._tokens, self._spent_s = PRIOR_TOKENS, PRIOR_TOKENS * float(self._seconds[0])
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
        self.guard.observe(record)
        self._tokens += record.num_emitted
        self._spent_s += step_seconds(record, self.guard.prices, is_adaptive=False)

    def _price(self, speed: float) -> None:
        """speed: tokens per second that a second spent on rows could have brought."""
        self._speed = speed
        node_costs = tuple(((self._seconds - self._seconds[0]) * speed).tolist())
        self._decision = Decision(self.plan.max_depth, tree=replace(self.plan, node_costs=node_costs))
