"""The score of tree nodes learns chances that no single source tells, and its trees are nearly the best there are."""

from collections.abc import Callable

import numpy as np
import pytest

from specbound_controller.costs import CostTable
from specbound_controller.mlp import Mlp
from specbound_controller.trees.node_features import SCORED_SOURCES
from specbound_controller.trees.plan import TreePlan
from specbound_controller.trees.rates import prior_rates
from specbound_controller.trees.settings import TreeSources
from specbound_profiling.replay.trees import TreeReplay
from specbound_train.data import LevelData
from specbound_train.modules import FitSettings, Rows, fit, fit_folds
from specbound_train.nodes.fit import NodeScores, fit_nodes, grow_by_price
from specbound_train.nodes.judge import chances_of, counted_rates, judge_scores, judge_trees
from specbound_train.nodes.rows import node_rows
from tests.train.nodes.conftest import KnownText

NODE_COST, MOST_NODES, MOST_DEPTH = 0.15, 8, 3


def level_of(known: KnownText, costs: CostTable) -> LevelData:
    """A third of the prompts judges."""
    training, validation = known.traces[:8], known.traces[8:]
    return LevelData("none", costs, tuple(training), np.arange(8) % 2, tuple(validation))


@pytest.fixture(scope="module")
def level(known: KnownText, costs_of: Callable[..., CostTable]) -> LevelData:
    return level_of(known, costs_of())


def _fit(rows: Rows, folds: np.ndarray) -> tuple[Mlp, ...]:
    settings = FitSettings(16, 12, 5e-3, 1e-2, 0)
    return fit_folds(rows, folds, settings, lambda fold, own, tune, share: fit(own, tune, share, None))


@pytest.fixture(scope="module")
def scores(known: KnownText, level: LevelData) -> NodeScores:
    return fit_nodes([level], known.stores, 0, _fit)


def test_rows_are_the_candidates_after_true_paths(known: KnownText) -> None:
    rows = node_rows(known.traces[:1], known.stores, SCORED_SOURCES, 0)
    trace = known.traces[0]
    assert int((rows.depth == 0).sum()) > 8 * (trace.num_positions - 1)  # of every place but the first
    assert len(np.unique(rows.place[rows.depth == 0])) == trace.num_positions - 1
    assert 1 < rows.depth.max() < 16
    per_place = np.bincount(rows.place, rows.is_right)
    assert per_place.max() == 1  # a token stands once
    assert np.isin(np.unique(rows.rank(SCORED_SOURCES)), range(8)).all()


def test_the_score_knows_what_agreement_means(known: KnownText, level: LevelData, scores: NodeScores) -> None:
    sources = TreeSources(known.stores, prior_rates())
    fits, ranks, num_judged = judge_scores([level], scores, sources, 0)
    by_name = {each.name: each for each in fits}
    assert num_judged == len(node_rows(level.validation, known.stores, SCORED_SOURCES, 0))
    learned, counts = by_name["learned"], by_name["counts"]
    assert learned.ece < 0.02
    assert learned.log_loss < counts.log_loss - 0.003 and learned.auroc > counts.auroc
    assert counts.log_loss < by_name["by_hand"].log_loss
    assert {rank.source for rank in ranks} >= {"own_text", "recycled", "bigrams"}
    assert sum(rank.num_rows for rank in ranks) == num_judged
    rows = node_rows(level.validation, known.stores, SCORED_SOURCES, 0)
    chances = chances_of(scores.deployed, rows)
    is_agreed = (rows.cells[:, 1] > 0) & (rows.depth == 0)
    assert chances[is_agreed].mean() == pytest.approx(0.75, abs=0.08)


def best_value(known: KnownText, token: int, reached: float, depth: int) -> float:
    """What the best tree below a node is worth, in tokens less costs: dynamic programming over its children."""
    if depth == MOST_DEPTH:
        return 0.0
    total = 0.0
    for other in np.flatnonzero(known.chances[token] * reached > NODE_COST):
        survival = reached * float(known.chances[token, other])
        total += survival - NODE_COST + best_value(known, int(other), survival, depth + 1)
    return total


def test_learned_growth_is_nearly_the_best_tree(known: KnownText, level: LevelData, scores: NodeScores) -> None:
    costs = tuple(NODE_COST * number for number in range(MOST_NODES + 1))
    rows = node_rows(level.training, known.stores, SCORED_SOURCES, 0)
    rates = dict(counted_rates(rows, SCORED_SOURCES))
    worth = {"learned": 0.0, "counts": 0.0, "best": 0.0}
    for name, score in (("learned", scores.deployed), ("counts", None)):
        plan = TreePlan(MOST_NODES, rates, known.stores, max_depth=MOST_DEPTH, node_costs=costs, score=score)
        for trace in level.validation:
            trees = TreeReplay(trace, 12)
            for start in range(1, trace.num_positions - MOST_DEPTH - 1):
                tree = trees.grow(plan, start, MOST_DEPTH)
                survivals = [1.0]
                for node in range(1, len(tree.tokens)):
                    parent = tree.parents[node]
                    chance = known.chances[tree.tokens[parent], tree.tokens[node]]
                    survivals.append(survivals[parent] * float(chance))
                worth[name] += sum(survivals[1:]) - NODE_COST * tree.num_drafted
                if score is not None:
                    worth["best"] += best_value(known, tree.tokens[0], 1.0, 0)
    assert worth["learned"] >= 0.9 * worth["best"]  # within a tenth, from 8 prompts
    assert worth["learned"] > worth["counts"]


def test_trees_of_the_score_are_priced_by_their_own_speed(
    known: KnownText, level: LevelData, scores: NodeScores
) -> None:
    sources = TreeSources(known.stores, prior_rates())
    growth = grow_by_price([level], scores, sources, 12)
    assert growth["none"].growth == "best_first" and growth["none"].speedup >= 1.0
    (judged,) = judge_trees([level], scores, growth, sources, 12, 0)
    assert judged.learned_speedup > 1.1 * judged.tuned_speedups[judged.best_tuned] and judged.learned_nodes > 0.5
