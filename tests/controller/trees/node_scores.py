"""Scores of tree nodes with random weights."""

import numpy as np

from specbound_controller.mlp import Mlp
from specbound_controller.trees.node_features import SCORED_SOURCES, input_names
from specbound_controller.trees.node_score import NodeScore


def random_mlp(rng: np.random.Generator, sources: tuple[str, ...] = SCORED_SOURCES, hidden: int = 12) -> Mlp:
    """A sharp one, so that scores differ."""
    num_inputs = len(input_names(sources))
    arrays = (rng.normal(size=(hidden, num_inputs)), rng.normal(size=hidden), rng.normal(size=(1, hidden)), [-1.0])
    return Mlp(*(np.asarray(array, dtype=np.float32) for array in arrays))


def random_score(rng: np.random.Generator, sources: tuple[str, ...] = SCORED_SOURCES) -> NodeScore:
    """Over some sources, calibrated otherwise for each."""
    slopes = tuple(np.linspace(0.8, 1.1, len(sources)).tolist())
    return NodeScore(random_mlp(rng, sources), sources, slopes, tuple(0.1 * k for k in range(len(sources))))
