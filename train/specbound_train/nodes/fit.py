"""Fits the score of tree nodes, one network for each fold of the prompts, and finds the price at which its trees grow.

Knows logs by their traces; writes nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from specbound_controller.mlp import Mlp
from specbound_controller.sources.stores import Stores
from specbound_controller.trees.learned import LearnedTrees
from specbound_controller.trees.node_features import SCORED_SOURCES
from specbound_controller.trees.node_score import NodeScore
from specbound_controller.trees.settings import TreeSettings, TreeSources
from specbound_profiling.replay.tree_steps import TreeMemo
from specbound_train.calibration.measures import platt
from specbound_train.data import LevelData
from specbound_train.modules import Rows, average
from specbound_train.nodes.rows import NodeRows, concatenated, node_rows
from specbound_train.tuning.trees import Part, some_prompts, tune_tree

Fit = Callable[[Rows, np.ndarray], tuple[Mlp, ...]]
"""Rows and the fold of each -> a network for each fold, fitted without it."""


@dataclass(frozen=True, slots=True, eq=False)
class NodeScores:
    """Scores: one for each fold, fitted without it, and their average."""

    by_fold: tuple[NodeScore, ...]
    deployed: NodeScore
    mlp: Mlp
    """Of the deployed one."""
    num_rows: int


def sources_of(stores: Stores) -> tuple[str, ...]:
    """Sources that can be scored and have what they need."""
    has = {"bigrams": stores.bigrams is not None, "own_text": stores.own_text is not None}
    return tuple(name for name in SCORED_SOURCES if has.get(name, True))


def fit_nodes(levels: Sequence[LevelData], stores: Stores, seed: int, fit: Fit) -> NodeScores:
    """The score of all levels together, calibrated for each source on rows that its networks have not seen.

    Calibration takes the candidates that trees would try: what looks best of many is, on the average, worse than it
    looks, and it is these chances that are multiplied.
    """
    sources = sources_of(stores)
    parts, folds = list[NodeRows](), list[np.ndarray]()
    for data in levels:
        rows = node_rows(data.training, stores, sources, seed)
        parts.append(rows)
        folds.append(data.folds[rows.trace])
    rows, fold = concatenated(parts), np.concatenate(folds)
    inputs, targets = rows.inputs(sources), rows.is_right[:, None]
    mlps = fit(Rows(inputs, targets, np.ones_like(targets)), fold)
    logits = np.empty(len(rows))
    for index, mlp in enumerate(mlps):
        logits[fold == index] = mlp(inputs[fold == index])[:, 0]
    tried = rows.tried_first(logits)
    chosen = [tried & (rows.source == index) for index in range(len(sources))]
    values = [platt(logits[own], rows.is_right[own]) for own in chosen]
    slopes, offsets = tuple(slope for slope, _ in values), tuple(offset for _, offset in values)
    whole = average(mlps)
    by_fold = tuple(NodeScore(mlp, sources, slopes, offsets) for mlp in mlps)
    return NodeScores(by_fold, NodeScore(whole, sources, slopes, offsets), whole, len(rows))


def grow_by_price(
    levels: Sequence[LevelData], scores: NodeScores, sources: TreeSources, num_layers: int
) -> Mapping[str, TreeSettings]:
    """By compression level, the bounds and the price at which the score's trees are fastest on some training prompts.

    Each prompt is replayed by the network that was fitted without it.
    """
    found = {}
    for compression in dict.fromkeys(data.compression for data in levels):
        parts = list[Part]()
        own_levels = [data for data in levels if data.compression == compression]
        for data in own_levels:
            chosen = {trace.prompt_id for trace in some_prompts(data.training)}
            for fold, score in enumerate(scores.by_fold):
                pairs = zip(data.training, data.folds, strict=True)
                traces = [trace for trace, own in pairs if own == fold and trace.prompt_id in chosen]
                if traces:
                    parts.append(Part(traces, replace(sources, score=score), TreeMemo(traces)))
        found[compression] = tune_tree("priced_tree", parts, own_levels[0].costs, num_layers).settings
    return found


def learned_trees(scores: NodeScores, growth: Mapping[str, TreeSettings], played: Sequence[str]) -> LearnedTrees:
    """What a controller says of them."""
    score = scores.deployed
    return LearnedTrees(score.sources, score.slopes, score.offsets, growth, tuple(played))
