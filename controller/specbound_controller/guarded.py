"""Any policy behind the never-slower guard. Knows no model and no clock."""

import copy

import numpy as np

from specbound_controller.costs import CostTable
from specbound_controller.guard import NeverSlowerGuard
from specbound_controller.policy import Policy
from specbound_controller.records import Decision, StepRecord

_PLAIN = Decision(w_max=0)


class GuardedPolicy:
    """Another policy that falls back to plain decoding where its drafts do not pay, and probes again.

    Example:
        >>> GuardedPolicy(StaticPolicy(exit_layers=(3,), threshold=0.7), costs, num_layers=16)
    """

    def __init__(self, policy: Policy, costs: CostTable, num_layers: int) -> None:
        """costs: of this machine, at the compression and exactness that steps run on."""
        self.policy, self.costs, self._num_layers = policy, costs, num_layers
        self.guard = NeverSlowerGuard(costs, num_layers, policy.needs_features)
        self.needs_features = policy.needs_features

    @property
    def needs_full_signals(self) -> bool:
        """What the other needs, and nothing in a pause."""
        return self.policy.needs_full_signals and not self.guard.is_paused

    def reset(self) -> None:
        self.policy.reset()
        self.guard.reset()

    def decide(self, features: np.ndarray | None) -> Decision:
        """The other's decision, or plain decoding while the guard is closed."""
        return _PLAIN if self.guard.is_paused else self.policy.decide(features)

    def observe(self, record: StepRecord) -> None:
        is_paused = self.guard.is_paused
        self.guard.observe(record)
        if not is_paused:
            self.policy.observe(record)

    def share(self, num_rows: int) -> None:
        """So many sequences share the calls of the coming steps."""
        self.guard.share(num_rows)
        shared = getattr(self.policy, "share", None)
        if shared is not None:
            shared(num_rows)

    def __deepcopy__(self, memo: dict[int, object]) -> "GuardedPolicy":
        """Books of its own, the same prices."""
        twin = copy.copy(self)
        twin.policy, twin.guard = copy.deepcopy((self.policy, self.guard), memo)
        return twin
