"""The step policy: for every action of the grid, how many tokens a step will emit and how much work it will do.

Predicts what the model will do, never what it costs; a measured cost table prices the prediction. The choice is
`argmax emitted - rho * seconds`, `rho` being the policy's own long-run tokens per second, found by Dinkelbach's
iteration: maximising tokens over seconds of a whole run is a renewal-reward problem.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from specbound_controller.actions import Action
from specbound_controller.costs import WORK_NAMES, CostTable
from specbound_controller.features import FEATURE_NAMES
from specbound_controller.mlp import Mlp, sigmoid
from specbound_controller.work import expected_work_weights


class CurveLayout:
    """Which survival curves the network predicts, and how each action reads them.

    A profile is an exit layer with its threshold. For each profile there is a curve of P(at least j drafts
    accepted), for each profile with a threshold also one of P(at least j drafted), j = 1..J. A curve is predicted
    as J hazards: the logit of reaching j given j - 1. A width then only cuts a curve off.
    """

    # A actions, P profiles, Q of them tested, J longest width
    def __init__(self, actions: Sequence[Action]) -> None:
        drafting = [action for action in actions if action.width > 0]
        if not drafting:
            raise ValueError("actions must hold at least one that drafts")
        self.profiles = tuple(dict.fromkeys(replace(action, width=1) for action in drafting))
        """Actions that differ in more than their width, each written with width 1. (P,)"""
        self.tested = tuple(i for i, profile in enumerate(self.profiles) if profile.threshold > 0.0)
        """Indices of the profiles with a threshold. (Q,)"""
        self.longest = max(action.width for action in drafting)
        """J"""
        self.profile_of = tuple(
            self.profiles.index(replace(action, width=1)) if action.width > 0 else 0 for action in actions
        )
        """Index of each action's profile; 0 for plain decoding, which reads no more than a leading 1. (A,)"""

    @property
    def num_curves(self) -> int:
        return len(self.profiles) + len(self.tested)

    @property
    def num_outputs(self) -> int:
        """Hazards: curves x J."""
        return self.num_curves * self.longest


class StepPolicy:
    """The network with its action grid. Expected tokens and work are linear in the curves it predicts."""

    # R any leading shape, F features, A actions, C curve points (curves x (J + 1)), W work counts
    def __init__(self, mlp: Mlp, actions: Sequence[Action]) -> None:
        self.mlp = mlp
        self.actions = tuple(actions)
        self.layout = CurveLayout(self.actions)
        if mlp.num_inputs != len(FEATURE_NAMES) or mlp.num_outputs != self.layout.num_outputs:
            raise ValueError(
                f"the step policy must map {len(FEATURE_NAMES)} features to {self.layout.num_outputs} hazards, "
                f"got {mlp.num_inputs} to {mlp.num_outputs}"
            )

    def curves(self, features: np.ndarray) -> np.ndarray:
        """Probabilities that a step gets to j = 0..J, curve after curve. (R, F) -> (R, C) float32"""
        shape = (*features.shape[:-1], self.layout.num_curves)
        hazards = np.empty((*shape, self.layout.longest + 1), dtype=np.float32)
        hazards[..., 0] = 1.0
        hazards[..., 1:] = sigmoid(self.mlp(features)).reshape(*shape, self.layout.longest)
        if features.ndim == 1:
            np.multiply.accumulate(hazards, axis=-1, out=hazards)  # cumprod without its overhead
        else:  # the same products, row by row slow, all rows together fast
            for j in range(1, self.layout.longest + 1):
                hazards[..., j] *= hazards[..., j - 1]
        return hazards.reshape(*features.shape[:-1], -1)

    def emitted_weights(self) -> np.ndarray:
        """Weights that turn curves into expected tokens, the bonus token included. (A, C)"""
        layout = self.layout
        weights = np.zeros((len(self.actions), layout.num_curves, layout.longest + 1))
        for a, action in enumerate(self.actions):
            weights[a, layout.profile_of[a], : action.width + 1] = 1.0
        return weights.reshape(len(self.actions), -1)

    def work_weights(self, num_layers: int, context_length: int) -> np.ndarray:
        """Weights that turn curves into expected work. (A, C, W)"""
        layout = self.layout
        by_count = expected_work_weights(self.actions, num_layers, context_length)
        weights = np.zeros((len(self.actions), layout.num_curves, layout.longest + 1, len(WORK_NAMES)))
        drafted_curve = {profile: len(layout.profiles) + i for i, profile in enumerate(layout.tested)}
        for a, profile in enumerate(layout.profile_of):
            if self.actions[a].threshold > 0.0:
                weights[a, drafted_curve[profile]] = by_count[a]
            else:  # a fixed draft always gets to its width
                weights[a, 0, 0] = by_count[a].sum(axis=0)
        return weights.reshape(len(self.actions), -1, len(WORK_NAMES))

    def prices(self, costs: CostTable, num_layers: int) -> tuple[np.ndarray, np.ndarray]:
        """Weights that turn curves into seconds: a constant part, and one per token of context. 2 x (A, C)"""
        constant = costs.seconds(self.work_weights(num_layers, 0))
        per_token = costs.seconds(self.work_weights(num_layers, 1)) - constant
        return constant, per_token

    def table(
        self, features: np.ndarray, context_lengths: np.ndarray, costs: CostTable, num_layers: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Expected tokens and seconds of every action in many steps. (R, F), (R,) -> 2 x (R, A) float64"""
        curves = self.curves(features).astype(np.float64)
        constant, per_token = self.prices(costs, num_layers)
        seconds = curves @ constant.T + (curves @ per_token.T) * context_lengths[:, None]
        return curves @ self.emitted_weights().T, seconds


def choose(emitted: np.ndarray, seconds: np.ndarray, rho: float) -> np.ndarray:
    """Index of the best action at long-run speed `rho` (tokens per second); the first among equals. (R, A) -> (R,)"""
    best: np.ndarray = np.argmax(emitted - rho * seconds, axis=-1)
    return best


def solve_rho(emitted: np.ndarray, seconds: np.ndarray, weights: np.ndarray) -> float:
    """Long-run tokens per second of the best choice, by Dinkelbach's iteration. (R, A), (R, A), (R,)

    Starts from the best single action; each iteration can only raise the speed, so it ends.
    """
    rho = float(np.max((weights @ emitted) / (weights @ seconds)))
    rows = np.arange(len(emitted))
    for _ in range(100):
        best = choose(emitted, seconds, rho)
        better = float(weights @ emitted[rows, best]) / float(weights @ seconds[rows, best])
        if better <= rho * (1.0 + 1e-9):
            break
        rho = better
    return rho
