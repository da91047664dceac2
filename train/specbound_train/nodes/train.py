"""The part of a training that concerns draft trees: fit, price, judgement, and whether the controller plays them."""

from collections.abc import Sequence
from dataclasses import dataclass

from specbound_controller.mlp import Mlp
from specbound_controller.trees.learned import LearnedTrees
from specbound_profiling.log.store import StepLog
from specbound_train.compare import LevelSummary
from specbound_train.data import LevelData
from specbound_train.nodes.fit import Fit, NodeScores, fit_nodes, grow_by_price, learned_trees
from specbound_train.nodes.judge import TreeLevel, TreesSummary, judge_scores, judge_trees


@dataclass(frozen=True, slots=True, eq=False)
class TrainedTrees:
    """What a controller gets, and what is said of it."""

    trees: LearnedTrees
    mlp: Mlp
    """Of the node score."""
    summary: TreesSummary


def knows_trees(logs: Sequence[StepLog], levels: Sequence[LevelData]) -> bool:
    """Whether the logs say what trees would do, all of them with the same stores."""
    stores = logs[0].manifest.stores
    has_tokens = all(trace.knows_trees for data in levels for trace in (*data.training, *data.validation))
    return bool(stores) and has_tokens and all(log.manifest.stores == stores for log in logs)


def train_trees(
    log: StepLog, levels: Sequence[LevelData], chains: Sequence[LevelSummary], seed: int, fit: Fit
) -> TrainedTrees:
    """Trains the node score and says at which levels its trees beat the controller's chains.

    log: one whose stores all levels share. chains: what the controller reaches without trees, in the order of the
        levels' compression levels and temperatures.
    """
    sources, num_layers = log.tree_sources(), log.manifest.num_layers
    scores: NodeScores = fit_nodes(levels, sources.stores, seed, fit)
    growth = grow_by_price(levels, scores, sources, num_layers)
    fits, ranks, num_judged = judge_scores(levels, scores, sources, seed)
    judged = judge_trees(levels, scores, growth, sources, num_layers, seed)
    played = tuple(level for level in growth if _is_faster(level, judged, chains))
    summary = TreesSummary(scores.num_rows, num_judged, fits, ranks, judged, played)
    return TrainedTrees(learned_trees(scores, growth, played), scores.mlp, summary)


def _is_faster(compression: str, trees: Sequence[TreeLevel], chains: Sequence[LevelSummary]) -> bool:
    """Whether trees take less time than chains over the validation prompts of a compression level."""
    of_trees = {level.name: level.learned_speedup for level in trees}
    own = [chain for chain in chains if chain.compression == compression]
    plain_s = [chain.num_tokens / chain.plain_tokens_per_second for chain in own]
    tree_s = sum(seconds / of_trees[chain.name] for seconds, chain in zip(plain_s, own, strict=True))
    return tree_s < sum(seconds / chain.controller_speedup for seconds, chain in zip(plain_s, own, strict=True))
