"""The step policy: for every action of the grid, how many tokens a step will emit and how much work it will do.

Predicts what the model will do, never what it costs; a measured cost table prices the prediction. The choice is
`argmax emitted - rho * seconds`, `rho` being the policy's own long-run tokens per second, found by Dinkelbach's
iteration: maximising tokens over seconds of a whole run is a renewal-reward problem.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from specbound_controller.actions import Action
from specbound_controller.costs import CostTable
from specbound_controller.features import FEATURE_NAMES
from specbound_controller.mlp import Mlp, sigmoid
from specbound_controller.work import single_exit_work


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

    # R any leading shape, F features, A actions, C curves, P profiles, J longest width
    def __init__(self, mlp: Mlp, actions: Sequence[Action], has_full_signals: bool = True) -> None:
        """has_full_signals: whether every step takes the full model's signals, and pays for them."""
        self.mlp, self.has_full_signals = mlp, has_full_signals
        self.actions = tuple(actions)
        self.layout = CurveLayout(self.actions)
        if mlp.num_inputs != len(FEATURE_NAMES) or mlp.num_outputs != self.layout.num_outputs:
            raise ValueError(
                f"the step policy must map {len(FEATURE_NAMES)} features to {self.layout.num_outputs} hazards, "
                f"got {mlp.num_inputs} to {mlp.num_outputs}"
            )
        pairs = zip(self.layout.profile_of, self.actions, strict=True)
        self._places = np.array([profile * (self.layout.longest + 1) + action.width for profile, action in pairs])

    def curves(self, features: np.ndarray) -> np.ndarray:
        """Probabilities that a step gets to j = 0..J: of every profile's accepted drafts, then of the tested ones'
        issued drafts. (R, F) -> (R, C, J + 1) float32"""
        shape = (*features.shape[:-1], self.layout.num_curves)
        hazards = np.empty((*shape, self.layout.longest + 1), dtype=np.float32)
        hazards[..., 0] = 1.0
        hazards[..., 1:] = sigmoid(self.mlp(features)).reshape(*shape, self.layout.longest)
        if features.ndim == 1:
            np.multiply.accumulate(hazards, axis=-1, out=hazards)  # cumprod without its overhead
        else:  # the same products, row by row slow, all rows together fast
            for j in range(1, self.layout.longest + 1):
                hazards[..., j] *= hazards[..., j - 1]
        return hazards

    def prices(self, costs: CostTable, num_layers: int) -> "Prices":
        """What the profiles' drafts cost on one machine."""
        constant, with_context = (
            _profile_seconds(self.layout, costs, num_layers, context_length, self.has_full_signals)
            for context_length in (0, 1)
        )
        return Prices(*constant, *(more - less for more, less in zip(with_context, constant, strict=True)))

    def expected(
        self, features: np.ndarray, context_length: np.ndarray | float, prices: "Prices"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Expected tokens and seconds of every action. (R, F), (R,) -> 2 x (R, A)"""
        layout = self.layout
        curves = self.curves(features)
        accepted = curves[..., : len(layout.profiles), :]
        drafted = np.ones_like(accepted)  # a fixed draft always gets to its width
        drafted[..., layout.tested, :] = curves[..., len(layout.profiles) :, :]
        context = np.asarray(context_length)[..., None, None]
        seconds = drafted * (prices.last + context * prices.last_per_token)
        before = drafted[..., :-1] * (prices.onward[:, :-1] + context * prices.onward_per_token[:, :-1])
        seconds[..., 1:] += np.add.accumulate(before, axis=-1)
        emitted = np.add.accumulate(accepted, axis=-1)
        return self._of_actions(emitted), self._of_actions(seconds)

    def _of_actions(self, values: np.ndarray) -> np.ndarray:
        """Reads each action's profile and width. (R, P, J + 1) -> (R, A)"""
        chosen: np.ndarray = values.reshape(*values.shape[:-2], -1)[..., self._places]
        return chosen

    def table(
        self, features: np.ndarray, context_lengths: np.ndarray, costs: CostTable, num_layers: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Expected tokens and seconds of every action in many steps. (R, F), (R,) -> 2 x (R, A) float64"""
        emitted, seconds = self.expected(features, context_lengths, self.prices(costs, num_layers))
        return emitted.astype(np.float64), seconds.astype(np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Prices:
    """Seconds of the profiles' drafts, at context length 0 and more for each token of context.

    With `d_j = P(at least j drafted)` a step of width w costs `sum_{j < w} d_j onward_j + d_w last_w`.
    """

    onward: np.ndarray
    """Getting to j drafts and trying for one more, less what getting to j - 1 and trying cost. (P, J + 1)"""
    last: np.ndarray
    """Getting to j drafts, the width, beyond the same; plain decoding where j is 0. (P, J + 1)"""
    onward_per_token: np.ndarray
    """(P, J + 1)"""
    last_per_token: np.ndarray
    """(P, J + 1)"""


def _profile_seconds(
    layout: CurveLayout, costs: CostTable, num_layers: int, context_length: int, has_full_signals: bool
) -> tuple[np.ndarray, np.ndarray]:
    """`Prices.onward` and `Prices.last` at one context length. 2 x (P, J + 1) float64"""
    onward, last = (np.empty((len(layout.profiles), layout.longest + 1)) for _ in range(2))
    for row, profile in enumerate(layout.profiles):
        is_tested, is_learned = profile.threshold > 0.0, profile.score == "learned"

        def seconds(
            drafted: int, reads: int, profile: Action = profile, score: tuple[bool, bool] = (is_tested, is_learned)
        ) -> float:
            work = single_exit_work(
                profile.exit_layer, num_layers, drafted, reads, score[0], context_length, score[1], has_full_signals
            )
            return float(costs.seconds(work))

        # A draft that fails a test at j < width has read the head j + 1 times, a full one `width` times.
        tried = np.array([seconds(count, count + 1) for count in range(layout.longest + 1)])
        full = np.array([seconds(count, count) for count in range(layout.longest + 1)])
        onward[row] = np.diff(tried, prepend=0.0)
        last[row] = full - np.concatenate(([0.0], tried[:-1]))
        plain = single_exit_work(0, num_layers, 0, 0, False, context_length, False, has_full_signals)
        last[row, 0] = costs.seconds(plain)
    return onward, last


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
