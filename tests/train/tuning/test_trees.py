"""Constants of draft trees chosen by replay: the fastest of what was tried, and prices that the policy itself pays."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from specbound_controller.actions import static_grid
from specbound_controller.baselines.tuned import TunedTree
from specbound_controller.costs import CostTable
from specbound_controller.policy import StaticPolicy
from specbound_controller.sources.bigrams import BigramTable
from specbound_controller.sources.stores import Stores
from specbound_controller.trees.names import TUNED_TREES
from specbound_controller.trees.settings import TreeSources, candidates
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.replay.replay import replay
from specbound_train.tuning.trees import tune_trees

NUM_LAYERS = 12


@pytest.fixture(scope="module")
def sources() -> TreeSources:
    """Bigrams that know what follows an even token in two of three cases, and guess seven tokens more."""
    rng = np.random.default_rng(0)
    best = np.stack([rng.permutation(64)[:8] for _ in range(64)]).astype(np.int32)
    best[::2, 0], best[1::2, 0] = np.arange(0, 64, 2) + 1, -1
    return TreeSources(Stores(BigramTable(best)), {"bigrams": [0.7, *[0.02] * 7], "recycled": [0.02] * 8})


@pytest.fixture(scope="module")
def traces(traces_of: Callable[..., list[PromptTrace]]) -> list[PromptTrace]:
    rng, found = np.random.default_rng(1), []
    for trace in traces_of(0, 4, 40):
        tokens = [0]
        while len(tokens) < 40:
            is_next = tokens[-1] % 2 == 0 and rng.random() < 0.7
            tokens.append((tokens[-1] + 1) % 64 if is_next else int(rng.integers(0, 64)))
        best = np.stack([rng.permutation(64)[:8] for _ in tokens])
        prompt = rng.integers(0, 64, trace.prompt_length)
        found.append(replace(trace, tokens=np.array(tokens), prompt_tokens=prompt, best_tokens=best))
    return found


def test_no_rule_of_trees_tries_more_than_the_static_grid_of_one_exit_holds() -> None:
    for name in TUNED_TREES:
        assert 1 < len(list(candidates(name))) <= len(static_grid((0, 1)))


@pytest.fixture(scope="module")
def tuned(traces: list[PromptTrace], sources: TreeSources, costs_of: Callable[..., CostTable]) -> dict[str, TunedTree]:
    return tune_trees(traces, sources, costs_of(), NUM_LAYERS, lambda line: None)


def test_tuned_trees_are_the_fastest_of_what_was_tried(
    tuned: dict[str, TunedTree], traces: list[PromptTrace], sources: TreeSources, costs_of: Callable[..., CostTable]
) -> None:
    costs = costs_of()
    assert tuple(tuned) == TUNED_TREES
    for name, found in tuned.items():
        policy = found.settings.policy(sources, costs, NUM_LAYERS)
        speed = replay(traces, policy, costs, NUM_LAYERS, "none").tokens_per_second
        assert speed == pytest.approx(found.tokens_per_second), name
    others = [settings.policy(sources, costs, NUM_LAYERS) for settings in candidates("tuned_tree")][::5]
    speeds = [replay(traces, policy, costs, NUM_LAYERS, "none").tokens_per_second for policy in others]
    assert max(speeds) <= tuned["tuned_tree"].tokens_per_second * (1 + 1e-9)


def test_nodes_of_a_priced_tree_pay_at_the_speed_that_the_policy_reaches(
    tuned: dict[str, TunedTree], traces: list[PromptTrace], sources: TreeSources, costs_of: Callable[..., CostTable]
) -> None:
    costs, found = costs_of(), tuned["priced_tree"]
    plan = found.settings.plan(sources, costs, NUM_LAYERS)
    plain = replay(traces, StaticPolicy(()), costs, NUM_LAYERS, "none").tokens_per_second
    assert found.settings.speedup == pytest.approx(found.tokens_per_second / plain, rel=0.02) and plain > 0
    assert found.settings.speedup > 1.1 and found.num_candidates > len(list(candidates("priced_tree")))
    assert found.tokens_per_second > tuned["tuned_tree"].tokens_per_second
    assert plan.node_costs[0] == 0 and 0.02 < plan.node_costs[1] < 0.7  # worth a right guess, not a wrong one
