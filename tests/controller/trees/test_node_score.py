"""The score of tree nodes: its tables are the network, its inputs say what sources say, trees are grown by it."""

import copy

import numpy as np
import pytest

from specbound_controller.mlp import sigmoid
from specbound_controller.sources import context
from specbound_controller.sources.bigrams import BigramSource, BigramTable
from specbound_controller.sources.recycled import RecycledSource
from specbound_controller.trees.growth import grow
from specbound_controller.trees.learned import LearnedTrees
from specbound_controller.trees.node_features import (
    MOST_DEPTH,
    NO_CELL,
    SCORED_SOURCES,
    first_cells,
    input_names,
    node_inputs,
    ranks,
)
from specbound_controller.trees.node_score import NodeScore
from specbound_controller.trees.plan import TreePlan
from specbound_controller.trees.scored import Scored
from specbound_controller.trees.settings import TreeSettings
from tests.controller.trees.node_scores import random_mlp, random_score

SOURCES = ("recycled", "bigrams")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_tables_give_what_the_network_gives(rng: np.random.Generator) -> None:
    score, count = random_score(rng), 50
    starts, total = first_cells(SCORED_SOURCES), len(ranks(SCORED_SOURCES))
    ends = [*list(starts.values())[1:], total]
    cells, firsts = (
        np.stack([rng.choice([NO_CELL, *range(*span)], count) for span in zip(starts.values(), ends, strict=True)], 1)
        for _ in range(2)
    )
    cells[:, 3] = starts["bigrams"]  # each is proposed by some source
    depth, recent = rng.integers(0, 20, count), rng.random((count, 4))
    logits = score.mlp(node_inputs(SCORED_SOURCES, cells, firsts, depth, recent))[:, 0].astype(np.float64)
    first = [int(np.flatnonzero(row)[0]) for row in cells]
    expected = sigmoid(np.array(score.slopes)[first] * logits + np.array(score.offsets)[first])
    of_depth = score.of_depths(recent)[np.arange(count), np.minimum(depth, MOST_DEPTH - 1)]
    found = score.chances(cells, np.array(first), score.of_places(of_depth, firsts))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert copy.deepcopy(score) is score


def test_inputs_say_what_a_source_says_of_a_candidate() -> None:
    names, starts = input_names(SCORED_SOURCES), first_cells(SCORED_SOURCES)
    cell = starts["context"] + context.CELLS[4, 2, True]
    cells, firsts = np.array([[cell, 0, 0, 0]]), np.array([[0, 0, starts["recycled"] + 5, 0]])
    row = node_inputs(SCORED_SOURCES, cells, firsts, np.array([3]), np.array([[0.5, 0.0, 0.0, 0.0]]))[0]
    said = {name: float(value) for name, value in zip(names, row, strict=True) if value}
    flags = {"context_match4": 1, "context_rank2": 1, "context_repeated": 1, "first_recycled_rank5": 1}
    assert said == pytest.approx({**flags, "depth": 3, "log_depth": np.log(4), "recent_context": 0.5})
    assert ranks(SCORED_SOURCES)[cell] == 2 and ranks(SCORED_SOURCES)[NO_CELL] == -1


def test_children_of_all_sources_are_scored_together_the_best_first(rng: np.random.Generator) -> None:
    recycled = RecycledSource()
    recycled.observe(1, [7, 3])
    bigrams = BigramSource(BigramTable(np.array([[0, 1], [3, 9]], dtype=np.int32)))
    score = random_score(rng, SOURCES)
    children = Scored(score, [recycled, bigrams], [0.25, 0.5]).children((1,), 2, 8)
    assert {child[1:] for child in children} == {(7, "recycled", 0), (3, "recycled", 1), (9, "bigrams", 1)}
    assert [child[0] for child in children] == sorted((child[0] for child in children), reverse=True)
    start = first_cells(SOURCES)["bigrams"]
    cells, firsts = np.array([[1, 0], [2, start], [0, start + 1]]), np.array([[1, start]] * 3)
    inputs = node_inputs(SOURCES, cells, firsts, np.full(3, 2), np.array([[0.25, 0.5]] * 3))
    logits = score.mlp(inputs)[:, 0].astype(np.float64)
    expected = sigmoid(np.array([0.8, 0.8, 1.1]) * logits + np.array([0.0, 0.0, 0.1]))
    by_token = {child[1]: child[0] for child in children}
    np.testing.assert_allclose([by_token[7], by_token[3], by_token[9]], expected, rtol=1e-4)
    assert Scored(score, [recycled, bigrams], [0.25, 0.5]).children((8,), 2, 8) == []
    plan = TreePlan(4, {name: [0.1] * 8 for name in SOURCES}, max_depth=1, score=score)
    tree = grow([5, 1], [recycled, bigrams], plan, 4, recent=[0.25, 0.5])
    at_root = Scored(score, [recycled, bigrams], [0.25, 0.5]).children((5, 1), 0, 8)
    assert tree.survivals[1:] == [child[0] for child in at_root]


def test_scores_that_do_not_fit_are_refused(rng: np.random.Generator) -> None:
    mlp = random_mlp(rng, SOURCES)
    with pytest.raises(ValueError, match=r"sources must be some of .*, got \('earlier',\)"):
        NodeScore(mlp, ("earlier",), (1.0,), (0.0,))
    with pytest.raises(ValueError, match="slopes and offsets must have 2 values"):
        NodeScore(mlp, SOURCES, (1.0,), (0.0,))
    with pytest.raises(ValueError, match="the node score must map"):
        NodeScore(random_mlp(rng), SOURCES, (1.0, 1.0), (0.0, 0.0))
    score = random_score(rng, SOURCES)
    for changes in ({"rates": {"context": [0.1]}}, {"rates": {"bigrams": [0.1]}, "exit_layer": 2}):
        with pytest.raises(ValueError, match="score knows candidates of recycled, bigrams alone"):
            TreePlan(4, score=score, **changes)  # type: ignore[arg-type]


def test_what_a_controller_says_of_trees_comes_back(rng: np.random.Generator) -> None:
    growth = {"none": TreeSettings("best_first", 31, 8, 16, 1, (), 1.5)}
    trees = LearnedTrees(SOURCES, (0.9, 1.1), (0.0, -0.5), growth, ("none",))
    content = trees.to_dict()
    assert LearnedTrees.from_dict(content) == trees
    with pytest.raises(ValueError, match="inputs of trees must be those of this version"):
        LearnedTrees.from_dict({**content, "inputs": ["rank"]})
    with pytest.raises(ValueError, match="trees must have the keys"):
        LearnedTrees.from_dict({**content, "more": 1})
    with pytest.raises(ValueError, match="trees must be played at levels that they grow at"):
        LearnedTrees.from_dict({**content, "played": ["nf4"]})
    with pytest.raises(ValueError, match="growth of trees must be whole numbers and a speed"):
        LearnedTrees.from_dict({**content, "growth": {"none": {**content["growth"]["none"], "max_nodes": 2.5}}})
