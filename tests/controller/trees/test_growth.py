"""Which nodes a tree gets, by hand and against brute force."""

import itertools
import random

import numpy as np
import pytest

from specbound_controller.sources.bigrams import BigramSource, BigramTable
from specbound_controller.sources.own_text import context_key
from specbound_controller.trees.growth import best_size, cheapest_floor, grow
from specbound_controller.trees.plan import TreePlan
from specbound_controller.trees.rates import PRIOR_WEIGHT, RateCounts, prior_rates
from specbound_controller.trees.tree import DraftTree, tree_of

TABLE = BigramTable(np.array([[1, 2, 3], [2, 3, 0], [3, 0, 1], [0, 1, 2]], dtype=np.int32))
RATES = {"bigrams": [0.5, 0.25, 0.125]}


def grown(plan: TreePlan, depth: int = 9, end_tokens: frozenset[int] = frozenset()) -> DraftTree:
    return grow([0], [BigramSource(TABLE)], plan, depth, end_tokens)


def test_best_first_by_hand() -> None:
    tree = grown(TreePlan(5, RATES))
    # 0.5: 1; 0.25: its child 2, and the root's second, 2; 0.125: ...
    assert tree.tokens[:4] == [0, 1, 2, 2]
    assert tree.parents[:4] == [-1, 0, 0, 1]
    assert sorted(tree.survivals, reverse=True) == tree.survivals
    assert tree.survivals[:4] == [1.0, 0.5, 0.25, 0.25]


@pytest.mark.parametrize("seed", range(20))
def test_best_first_finds_the_nodes_that_brute_force_finds(seed: int) -> None:
    rng = random.Random(seed)
    rates = {"bigrams": [rng.random() for _ in range(3)]}
    tree = grown(TreePlan(8, rates), depth=4)
    by_rank = sorted(rates["bigrams"], reverse=True)
    every = [np.prod(path) for length in range(1, 5) for path in itertools.product(by_rank, repeat=length)]
    assert tree.survivals[1:] == pytest.approx(sorted(every, reverse=True)[:8])


def test_a_breadth_of_one_is_a_chain() -> None:
    tree = grown(TreePlan(4, RATES, breadth=1))
    assert tree.is_chain(len(tree.tokens))
    assert tree.tokens == [0, 1, 2, 3, 0]


def test_bounds_hold() -> None:
    assert max(grown(TreePlan(40, RATES, max_depth=2)).depths) == 2
    assert max(grown(TreePlan(40, RATES), depth=3).depths) == 3
    assert grown(TreePlan(40, RATES), depth=0).tokens == [0]
    assert grown(TreePlan(0, RATES)).tokens == [0]
    assert min(grown(TreePlan(40, RATES, min_survival=0.2)).survivals) >= 0.2
    ended = grown(TreePlan(40, RATES), end_tokens=frozenset({2}))
    assert 2 in ended.tokens
    assert not [node for node in range(1, len(ended.tokens)) if ended.tokens[ended.parents[node]] == 2]


def test_nodes_whose_row_does_not_pay_are_left_out() -> None:
    free = grown(TreePlan(6, RATES))
    dear = grown(TreePlan(6, RATES, node_costs=(0.0, 0.3, 0.6, 0.9, 1.2, 1.5, 1.8)))
    assert dear.tokens == free.tokens[:2]  # 0.5 pays 0.3, 0.25 does not
    assert grown(TreePlan(2, RATES, node_costs=(0.0, 0.9, 1.8))).num_drafted == 0


def test_a_dear_row_is_taken_for_the_cheap_ones_behind_it() -> None:
    costs = (0.0, 0.6, 0.61, 0.62, 0.63)
    assert cheapest_floor(costs) == pytest.approx([0.63 / 4, 0.01, 0.01, 0.01])
    assert best_size([0.5, 0.25, 0.25, 0.2], costs) == 4
    assert best_size([0.5, 0.05], costs[:3]) == 0


@pytest.mark.parametrize("seed", range(10))
def test_stopping_early_leaves_no_node_out_that_would_pay(seed: int) -> None:
    rng = random.Random(seed)
    costs = (0.0, *itertools.accumulate(rng.random() * 0.3 for _ in range(12)))
    rates = {"bigrams": [rng.random() * 0.8 for _ in range(3)]}
    whole = grown(TreePlan(12, rates))
    assert (
        grown(TreePlan(12, rates, node_costs=costs)).tokens == whole.tokens[: 1 + best_size(whole.survivals[1:], costs)]
    )


def test_eagle2_expands_the_beam_and_keeps_the_best() -> None:
    tree = grown(TreePlan(4, RATES, growth="eagle2", beam=1, max_depth=2))
    assert [round(s, 3) for s in tree.survivals] == [1.0, 0.5, 0.25, 0.25, 0.125]
    assert [tree.tokens[p] for p in tree.parents[1:]].count(0) + tree.tokens[1:].count(1) >= 2


def test_a_fixed_shape_is_followed() -> None:
    tree = grown(TreePlan(9, RATES, growth="fixed", children=((2,), (1, 2))))
    assert tree.parents == [-1, 0, 0, 1, 2, 2]
    assert tree.tokens == [0, 1, 2, 2, 3, 0]


def test_trees_are_checked() -> None:
    assert tree_of([-1, 0, 0, 1], [5, 6, 7, 6]).path(3) == [0, 1, 3]
    for parents, tokens in (([-1, 1, 0], [5, 6, 7]), ([-1, 0, 0], [5, 6, 6]), ([0, 0], [1, 2])):
        with pytest.raises(ValueError):
            tree_of(parents, tokens)


def test_rates_shrink_towards_their_priors() -> None:
    counts = RateCounts([BigramSource(TABLE)])
    for _ in range(30):
        counts.count((0,), 1)
    rates = counts.rates({"bigrams": [0.5] * 8})["bigrams"]
    weight = PRIOR_WEIGHT * 0.5
    assert rates[:3] == pytest.approx([(30 + weight) / (30 + PRIOR_WEIGHT), *[weight / (30 + PRIOR_WEIGHT)] * 2])


def test_priors_are_probabilities() -> None:
    assert all(0.0 < rate < 1.0 for rates in prior_rates().values() for rate in rates)


def test_contexts_of_small_tokens_have_keys_of_their_own() -> None:
    contexts = [c for length in (1, 2, 3) for c in itertools.product(range(12), repeat=length)]
    assert len({context_key(context) for context in contexts}) == len(contexts)
