"""Fixed tree settings as a policy: the same plan at every step. Knows no model."""

import numpy as np

from specbound_controller.records import Decision, StepRecord
from specbound_controller.trees.plan import TreePlan


class TreePolicy:
    """Drafts a tree by one plan at every step.

    Example:
        >>> TreePolicy(TreePlan(max_nodes=15, rates=DEFAULT_RATES))
    """

    needs_features = False
    needs_full_signals = False

    def __init__(self, plan: TreePlan) -> None:
        self.plan = plan
        self._decision = Decision(w_max=plan.max_depth, tree=plan)

    def reset(self) -> None:
        """Nothing to forget."""

    def decide(self, features: np.ndarray | None) -> Decision:
        return self._decision

    def observe(self, record: StepRecord) -> None:
        """Nothing to learn."""
