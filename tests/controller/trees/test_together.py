"""Trees of a batch: which nodes of all rows stand, and at which prices."""

import random

import pytest

from specbound_controller.costs import ROW_KNOTS, WORK_NAMES, CostTable
from specbound_controller.trees.growth import cut_together
from specbound_controller.trees.plan import TreePlan
from specbound_controller.trees.priced import PricedTreePolicy
from specbound_controller.trees.tree import DraftTree

# a call takes 1 ms up to 8 rows, and 1 ms more for every further 8 that it begins
CALLS = {f"layer_calls_rows_{n}": 1e-3 * -(-n // 8) for n in ROW_KNOTS}
TABLE = CostTable({**dict.fromkeys(WORK_NAMES, 0.0), **CALLS}, "none", "here", 0.0, 30)
LAYERS = 4


def grown(rng: random.Random, num_nodes: int) -> DraftTree:
    """A tree as best first leaves it: nodes ordered by survival."""
    tree = DraftTree([0])
    survival = 1.0
    for token in range(num_nodes):
        survival *= rng.uniform(0.5, 1.0)
        tree.add(rng.randrange(len(tree.tokens)), token, "context", 0, survival)
    return tree


@pytest.mark.parametrize("seed", range(20))
def test_the_nodes_that_stay_are_worth_the_most(seed: int) -> None:
    rng = random.Random(seed)
    trees = [grown(rng, rng.randrange(9)) for _ in range(rng.randrange(1, 6))]
    most, costs = rng.choice((4, 40)), [0.0]
    while len(costs) <= most:
        costs.append(costs[-1] + rng.choice((0.0, 0.0, 0.1, 2.0)))
    survivals = sorted((s for tree in trees for s in tree.survivals[1:]), reverse=True)
    gains = [sum(survivals[:n]) - costs[n] for n in range(min(most, len(survivals)) + 1)]
    before = [list(tree.tokens) for tree in trees]
    cut_together(trees, costs)
    kept = sum(tree.num_drafted for tree in trees)
    assert sum(sum(tree.survivals[1:]) for tree in trees) - costs[kept] == pytest.approx(max(gains))
    assert [tree.tokens for tree in trees] == [
        tokens[: len(tree.tokens)] for tokens, tree in zip(before, trees, strict=True)
    ]


def test_a_block_is_begun_where_all_rows_together_fill_it() -> None:
    policy = PricedTreePolicy(TreePlan(7), TABLE, LAYERS)
    policy.share(8)
    plan = policy.decide(None).tree
    assert plan is not None and not plan.node_costs
    speed = 8 / (LAYERS * 1e-3)  # of eight rows without drafts
    assert plan.shared_costs[:10] == pytest.approx([0.0, *[LAYERS * 1e-3 * speed] * 8, LAYERS * 2e-3 * speed])
    assert len(plan.shared_costs) == 64 - 8 + 1 and plan.min_survival == pytest.approx(1.0)
    lonely, joint = ([DraftTree([0]) for _ in range(8)] for _ in range(2))
    lonely[3].add(0, 1, "context", 0, 0.9)
    for tree in joint:
        tree.add(0, 1, "context", 0, 0.9)
    cheaper = [0.8 * cost for cost in plan.shared_costs]  # 6.4 tokens a block
    for trees, kept in ((lonely, 0), (joint, 8)):
        cut_together(trees, cheaper)
        assert sum(tree.num_drafted for tree in trees) == kept


def test_alone_again_a_sequence_pays_for_its_own_rows() -> None:
    policy, alone = (PricedTreePolicy(TreePlan(7), TABLE, LAYERS) for _ in range(2))
    policy.share(70)
    plan = policy.decide(None).tree
    assert plan is not None and plan.max_nodes == 0  # no prices of so many rows
    policy.share(1)
    assert policy.decide(None).tree == alone.decide(None).tree
