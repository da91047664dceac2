"""The step policy: for every action of the grid, how many tokens a step will emit and how much work it will do.

Predicts what the model will do, never what it costs; a measured cost table prices the prediction. The choice is
`argmax emitted - rho * seconds`, `rho` being the policy's own long-run tokens per second, found by Dinkelbach's
iteration: maximising tokens over seconds of a whole run is a renewal-reward problem.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

import numpy as np

from specbound_controller.actions import Action
from specbound_controller.costs import CostTable
from specbound_controller.features import FEATURE_NAMES
from specbound_controller.lookup import LOOKUP_EXIT
from specbound_controller.mlp import Mlp
from specbound_controller.work import exit_pass_work, single_exit_work

# R any leading shape, F features, A actions, C curves, P profiles, J longest width, Z = C * (J + 1) curve values

_SURE = 100.0
"""A logit that float32 arithmetic turns into probability 1."""


class CurveLayout:
    """Which curves the network predicts, and how each action reads them.

    A profile is an action but for its width. For each profile there is a curve of P(at least j drafts accepted), for
    each profile with a threshold one of P(at least j drafted), and for each profile that looks the context up first
    one of P(the exit is run for draft j + 1, given that j were drafted). The first two kinds are survival curves,
    predicted as J hazards: the logit of reaching j given j - 1. A width then only cuts a curve off.
    """

    def __init__(self, actions: Sequence[Action]) -> None:
        drafting = [action for action in actions if action.width > 0]
        if not drafting:
            raise ValueError("actions must hold at least one that drafts")
        profiles = dict.fromkeys(replace(action, width=1) for action in drafting)
        self.profiles = tuple(
            sorted(profiles, key=lambda profile: (profile.threshold > 0, profile.lookup_threshold > 0))
        )
        """Actions that differ in more than their width, each written with width 1: fixed drafts, then those with a
        threshold, last of these those that look the context up first. (P,)"""
        self.num_fixed = sum(profile.threshold == 0.0 for profile in self.profiles)
        self.num_looking_up = sum(profile.lookup_threshold > 0.0 for profile in self.profiles)
        """Profiles that look the context up before they run an exit."""
        self.longest = max(action.width for action in drafting)
        """J"""
        self.actions = tuple(actions)

    @property
    def num_survivals(self) -> int:
        """Survival curves: of all profiles' accepted drafts, then of the tested ones' issued drafts."""
        return 2 * len(self.profiles) - self.num_fixed

    @property
    def num_curves(self) -> int:
        """C"""
        return self.num_survivals + self.num_looking_up

    @property
    def num_outputs(self) -> int:
        """Logits: curves x J."""
        return self.num_curves * self.longest

    def profile_of(self, action: Action) -> int:
        """Index of an action's profile."""
        return self.profiles.index(replace(action, width=1))

    def actions_of(self, profiles: Container[int]) -> tuple[Action, ...]:
        """Plain decoding and the actions of some profiles, in the order of the grid."""
        return tuple(action for action in self.actions if action.width == 0 or self.profile_of(action) in profiles)

    def drafted_curve(self, profile: int) -> int | None:
        """Index of the curve of a profile's issued drafts; None for a fixed draft, which always gets to its width."""
        return len(self.profiles) + profile - self.num_fixed if profile >= self.num_fixed else None

    def run_curve(self, profile: int) -> int | None:
        """Index of the curve that says whether a profile runs its exit after its lookup; None where it always does."""
        index = profile - (len(self.profiles) - self.num_looking_up)
        return self.num_survivals + index if index >= 0 else None

    def emitted(self) -> np.ndarray:
        """What to weigh the curve values with for the tokens each action emits. (A, Z) float64"""
        weights = np.zeros((len(self.actions), self.num_curves, self.longest + 1))
        for row, action in enumerate(self.actions):  # plain decoding reads no more than a curve's leading 1
            profile = self.profile_of(action) if action.width else 0
            weights[row, profile, : action.width + 1] = 1.0
        return weights.reshape(len(self.actions), -1)

    def seconds(
        self, costs: CostTable, num_layers: int, context_length: int, has_full_signals: bool = True
    ) -> np.ndarray:
        """What to weigh the curve values with for the seconds each action takes at a context length. (A, Z) float64

        With `d_j = P(at least j drafted)` a step of width w takes `sum_{j < w} d_j onward_j + d_w last_w`, and
        `d_j P(run for draft j + 1) pass` for each j < w where the exit is run after a lookup only.
        """
        priced = [
            _profile_seconds(profile, costs, num_layers, self.longest, context_length, has_full_signals)
            for profile in self.profiles
        ]
        weights = np.zeros((len(self.actions), self.num_curves, self.longest + 1))
        plain = single_exit_work(LOOKUP_EXIT, num_layers, 0, 0, False, context_length, False, has_full_signals)
        for row, action in enumerate(self.actions):
            width = action.width
            if width == 0:
                weights[row, 0, 0] = costs.seconds(plain)
                continue
            profile = self.profile_of(action)
            onward, last, of_pass = priced[profile]
            drafted, run = self.drafted_curve(profile), self.run_curve(profile)
            if drafted is None:
                weights[row, profile, 0] = onward[:width].sum() + last[width]
                continue
            weights[row, drafted, :width], weights[row, drafted, width] = onward[:width], last[width]
            if run is not None:
                weights[row, run, :width] = of_pass
        return weights.reshape(len(self.actions), -1)


def _profile_seconds(
    profile: Action, costs: CostTable, num_layers: int, longest: int, context_length: int, has_full_signals: bool
) -> tuple[np.ndarray, np.ndarray, float]:
    """Seconds of a profile's drafts.

    `onward_j`: getting to j drafts and trying for one more, less what getting to j - 1 and trying took. `last_j`:
    getting to j drafts, the width, beyond the same. Then one run of the exit after a lookup. (J + 1,), (J + 1,)
    """
    is_tested, is_learned = profile.threshold > 0.0, profile.score == "learned"
    looks_up = profile.lookup_threshold > 0.0
    drafts_at = LOOKUP_EXIT if looks_up else profile.exit_layer

    def seconds(drafted: int, reads: int) -> float:
        work = single_exit_work(
            drafts_at, num_layers, drafted, reads, is_tested, context_length, is_learned, has_full_signals
        )
        return float(costs.seconds(work))

    split, of_pass = 0.0, 0.0
    if looks_up:
        split = float(costs.seconds(exit_pass_work(profile.exit_layer)))
        of_pass = float(costs.seconds(exit_pass_work(profile.exit_layer, True, is_learned)))
    # A draft that fails a test at j < width has read the head j + 1 times, a full one `width` times. An exit that
    # fails after a lookup has run all pending tokens: verification need not run the shallow layers again.
    tried = np.array([seconds(count, count + 1) - split for count in range(longest + 1)])
    full = np.array([seconds(count, count) for count in range(longest + 1)])
    return np.diff(tried, prepend=0.0), full - np.concatenate(([0.0], tried[:-1])), of_pass


@dataclass(frozen=True, slots=True, eq=False)
class Prices:
    """What to weigh the curve values with for the seconds of every action, on one machine."""

    constant: np.ndarray
    """At context length 0. (A, Z) float64"""
    per_token: np.ndarray
    """More for each token of context. (A, Z) float64"""


class StepPolicy:
    """The network with its action grid. Expected tokens and work are linear in the curves it predicts."""

    def __init__(self, mlp: Mlp, actions: Sequence[Action], has_full_signals: bool = True) -> None:
        """has_full_signals: whether every step takes the full model's signals, and pays for them."""
        self.mlp, self.has_full_signals = mlp, has_full_signals
        self.actions = tuple(actions)
        self.layout = layout = CurveLayout(self.actions)
        if mlp.num_inputs != len(FEATURE_NAMES) or mlp.num_outputs != layout.num_outputs:
            raise ValueError(
                f"the step policy must map {len(FEATURE_NAMES)} features to {layout.num_outputs} logits, "
                f"got {mlp.num_inputs} to {mlp.num_outputs}"
            )
        self._emitted = layout.emitted()
        # The network with its outputs where the curves want them, and `tanh(x / 2)` for the logistic function.
        shape, num_hidden = (layout.num_curves, layout.longest + 1), mlp.weight2.shape[1]
        weight, bias = np.zeros((*shape, num_hidden), dtype=np.float32), np.full(shape, _SURE, np.float32)
        for first, (low, high) in ((1, (0, layout.num_survivals)), (0, (layout.num_survivals, layout.num_curves))):
            outputs = slice(low * layout.longest, high * layout.longest)
            here = np.s_[low:high, first : first + layout.longest]
            weight[here] = mlp.weight2[outputs].reshape(high - low, layout.longest, num_hidden)
            bias[here] = mlp.bias2[outputs].reshape(high - low, layout.longest)
        halved = (0.5 * weight.reshape(-1, num_hidden), 0.5 * bias.ravel())
        self._half_logits = Mlp(mlp.weight1, mlp.bias1, *halved)

    def curve_values(self, features: np.ndarray) -> np.ndarray:
        """All that expected tokens and seconds are linear in, curve by curve, j = 0..J. (R, F) -> (R, Z) float32

        Survival curves are `curves`' own. Others are probabilities that draft j + 1 is tried for by running the exit.
        """
        layout, flat = self.layout, self._half_logits(features)
        np.tanh(flat, out=flat)
        flat += 1.0
        flat *= 0.5
        values = flat.reshape(*flat.shape[:-1], layout.num_curves, layout.longest + 1)
        survivals = values[..., : layout.num_survivals, :]
        if features.ndim == 1:
            np.multiply.accumulate(survivals, axis=-1, out=survivals)
        else:  # the same products, row by row slow, all rows together fast
            for j in range(1, layout.longest + 1):
                survivals[..., j] *= survivals[..., j - 1]
        if layout.num_looking_up:
            runs = values[..., layout.num_survivals :, :]
            runs *= survivals[..., layout.num_survivals - layout.num_looking_up :, :]
        return flat

    def curves(self, features: np.ndarray) -> np.ndarray:
        """The same by curve. (R, F) -> (R, C, J + 1) float32"""
        values = self.curve_values(features)
        return values.reshape(*values.shape[:-1], self.layout.num_curves, self.layout.longest + 1)

    def prices(self, costs: CostTable, num_layers: int) -> Prices:
        """What the actions cost on one machine."""
        constant, with_token = (
            self.layout.seconds(costs, num_layers, length, self.has_full_signals) for length in (0, 1)
        )
        return Prices(constant, with_token - constant)

    def gains(self, prices: Prices, rho: float) -> np.ndarray:
        """`emitted - rho * seconds` as weights of the curve values: at context length 0, then per token of it.
        (2 A, Z) float32"""
        gains = np.concatenate((self._emitted - rho * prices.constant, -rho * prices.per_token))
        return np.ascontiguousarray(gains, dtype=np.float32)

    def table(
        self, features: np.ndarray, context_lengths: np.ndarray, costs: CostTable, num_layers: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Expected tokens and seconds of every action in many steps. (R, F), (R,) -> 2 x (R, A) float64"""
        values, prices = self.curve_values(features).astype(np.float64), self.prices(costs, num_layers)
        seconds = values @ prices.constant.T + np.asarray(context_lengths)[..., None] * (values @ prices.per_token.T)
        return values @ self._emitted.T, seconds


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
