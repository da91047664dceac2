"""What the step features are worth: by a random forest, as in SpecKV's Figure 4, and to the step policy itself.

The compression level counts as one feature, however many columns it has. Writes nothing.
"""

# R rows (steps), F step features, G features with the level as one, J longest draft

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance

from specbound_controller.compression import COMPRESSIONS
from specbound_controller.features import FEATURE_NAMES
from specbound_controller.mlp import Mlp
from specbound_train.rows import CurveRows, StepRows

MAX_FOREST_ROWS = 6000
MAX_PERMUTED_ROWS = 2000
_NUM_REPEATS = 5
_PLAIN = [name for name in FEATURE_NAMES if not name.startswith("compression_")]
GROUPED_NAMES = (*_PLAIN, "compression")
"""The features, with the compression level as one. (G,)"""


@dataclass(frozen=True, slots=True)
class Importance:
    """Worth of each feature, in the order of `names`."""

    names: tuple[str, ...]
    forest: tuple[float, ...]
    """Share of the variance that a random forest takes away by splits on the feature; they add up to 1."""
    forest_r2: float
    """Of the forest on the validation prompts' steps; nan where they all did the same."""
    forest_rows: int
    permutation: tuple[float, ...]
    """How much the step policy's loss on the validation prompts grows, nats per known target, where the feature is
    shuffled among the steps; mean of the repeats."""
    permutation_std: tuple[float, ...]
    """Standard deviation over the repeats."""
    permutation_rows: int


def importance(
    training: Sequence[StepRows], validation: Sequence[StepRows], curves: CurveRows, step_mlp: Mlp, seed: int
) -> Importance:
    """Both importances. curves: targets of the step policy at the validation steps."""
    features, shares = _forest_rows(training, seed)
    judged, judged_shares = _forest_rows(validation, seed)
    forest = RandomForestRegressor(n_estimators=100, min_samples_leaf=5, max_features=1.0 / 3.0, random_state=seed)
    forest.fit(features, shares)
    r2 = float(forest.score(judged, judged_shares)) if len(judged) > 1 and judged_shares.std() > 0 else float("nan")

    chosen = _choice(len(curves), MAX_PERMUTED_ROWS, seed)
    targets = np.where(curves.is_reached, np.int8(1), np.int8(-1))[chosen] * curves.is_known[chosen]
    permuted = permutation_importance(
        _Fitted(step_mlp),
        grouped(curves.features[chosen]),
        targets,
        scoring=_log_likelihood,
        n_repeats=_NUM_REPEATS,
        random_state=seed,
    )
    return Importance(
        names=GROUPED_NAMES,
        forest=tuple(forest.feature_importances_.tolist()),
        forest_r2=r2,
        forest_rows=len(features),
        permutation=tuple(permuted.importances_mean.tolist()),
        permutation_std=tuple(permuted.importances_std.tolist()),
        permutation_rows=len(chosen),
    )


def grouped(features: np.ndarray) -> np.ndarray:
    """Features with the level's columns as one, its number in `COMPRESSIONS`. (R, F) -> (R, G)"""
    num_plain = len(_PLAIN)
    level = features[:, num_plain:].argmax(axis=1)
    return np.column_stack((features[:, :num_plain], level)).astype(np.float32)


def ungrouped(values: np.ndarray) -> np.ndarray:
    """The inverse of `grouped`. (R, G) -> (R, F)"""
    level = values[:, -1].astype(np.int64)
    one_hot = np.arange(len(COMPRESSIONS)) == level[:, None]
    return np.concatenate((values[:, :-1], one_hot), axis=1, dtype=np.float32)


def accepted_shares(steps: StepRows, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Share of a draft of `longest` tokens that would be accepted, mean over the exits, at each step; and for which
    steps it is known, those that long before the end. 2 x (R,)"""
    batch = steps.batch
    is_known = steps.rows + longest - 1 <= batch.last_row[steps.rows]
    position = np.minimum(steps.rows[:, None] + np.arange(longest), batch.last_row[steps.rows][:, None])
    place = batch.said.rows(position, np.arange(longest))
    accepted = np.logical_and.accumulate(batch.said.is_accepted[place], axis=1)  # (R, J, E)
    return accepted.mean(axis=(1, 2)), is_known


def _forest_rows(parts: Sequence[StepRows], seed: int, longest: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Grouped features and accepted shares of at most `MAX_FOREST_ROWS` steps. (R, G), (R,)"""
    features, shares = [], []
    for part in parts:
        share, is_known = accepted_shares(part, longest)
        features.append(grouped(part.features[is_known]))
        shares.append(share[is_known])
    if not sum(map(len, shares)) and longest > 1:  # no text is that long
        return _forest_rows(parts, seed, longest // 2)
    chosen = _choice(sum(map(len, shares)), MAX_FOREST_ROWS, seed)
    return np.concatenate(features)[chosen], np.concatenate(shares)[chosen]


def _choice(num_rows: int, most: int, seed: int) -> np.ndarray:
    if num_rows <= most:
        return np.arange(num_rows)
    return np.sort(np.random.default_rng(seed).choice(num_rows, most, replace=False))


class _Fitted:
    """What scikit-learn takes for an estimator: the step policy's network on grouped features."""

    def __init__(self, mlp: Mlp) -> None:
        self.mlp = mlp

    def fit(self, features: np.ndarray, targets: np.ndarray) -> "_Fitted":
        """It is fitted already."""
        return self


def _log_likelihood(fitted: _Fitted, values: np.ndarray, signs: np.ndarray) -> float:
    """Mean log-likelihood of the known targets (+1 or -1; 0 is unknown), nats."""
    logits = fitted.mlp(ungrouped(values))
    return -float((np.logaddexp(0.0, -signs * logits) * (signs != 0)).sum() / max(1, np.count_nonzero(signs)))
