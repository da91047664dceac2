"""Trees grown at all places at once are the trees that are grown one after another, and as right as they."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from specbound_controller.costs import CostTable
from specbound_controller.sources.bigrams import BigramTable
from specbound_controller.sources.own_text import OwnText
from specbound_controller.sources.stores import Stores
from specbound_controller.trees.plan import TreePlan
from specbound_controller.trees.policy import TreePolicy
from specbound_controller.trees.rates import prior_rates
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.replay.replay import replay_stepwise
from specbound_profiling.replay.source_arrays import Texts
from specbound_profiling.replay.tree_batch import grows_at_once, outcomes
from specbound_profiling.replay.tree_steps import replay_plan
from specbound_profiling.replay.trees import TreeReplay, right_path
from tests.controller.trees.node_scores import random_score

VOCABULARY = 24
PLANS: dict[str, dict[str, object]] = {
    "whole": {"max_nodes": 15},
    "one": {"max_nodes": 1},
    "chain": {"max_nodes": 6, "breadth": 1},
    "narrow": {"max_nodes": 31, "breadth": 2, "max_depth": 5},
    "likely": {"max_nodes": 15, "min_survival": 0.05},
    "paid": {"max_nodes": 20, "node_costs": tuple(0.02 * n + 0.1 * (n > 7) for n in range(21))},
    "uneven": {"max_nodes": 12, "node_costs": tuple(0.3 * (n % 3) for n in range(13))},
}


def stores_of(rng: np.random.Generator) -> Stores:
    best = np.stack([rng.permutation(VOCABULARY)[:8] for _ in range(VOCABULARY - 2)]).astype(np.int32)
    best[3, 2:], best[4, :] = -1, -1
    return Stores(BigramTable(best), OwnText.count([rng.integers(VOCABULARY // 2, size=60).tolist() for _ in range(3)]))


def rates_of(rng: np.random.Generator) -> dict[str, list[float]]:
    """Of few different values, so that many candidates are equal; some are 0."""
    return {name: (rng.integers(0, 9, len(own)) / 10).tolist() for name, own in prior_rates().items()}


@pytest.fixture(params=range(2))
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    return np.random.default_rng(request.param)


@pytest.fixture
def traces(trace_of: Callable[..., PromptTrace], rng: np.random.Generator) -> list[PromptTrace]:
    """Texts that repeat themselves here and there, of one token of prompt and more; one ends, one could go on."""
    found = []
    for index, (prompt, generated) in enumerate(((1, 2), (3, 40), (25, 30), (40, 1), (12, 50))):
        words = [rng.integers(VOCABULARY, size=5).tolist() for _ in range(4)]
        text = [token for _ in range(40) for token in words[rng.integers(4)]][: prompt + generated]
        text[len(text) // 2] = int(rng.integers(VOCABULARY))
        trace = trace_of(
            [[0]] * generated,
            prompt_id=str(index),
            prompt_length=prompt,
            prompt_tokens=np.array(text[:prompt]),
            best_tokens=np.stack([rng.permutation(VOCABULARY)[:8] for _ in range(generated)]),
        )
        trace = replace(trace, tokens=np.array(text[prompt:]), eos_token_ids=(VOCABULARY - 1,) if index % 2 else ())
        found.append(replace(trace, token_limit=generated + 4 * (index == 2), is_final_eos=index == 4))
    return found


@pytest.mark.parametrize("name", PLANS)
def test_trees_of_all_places_are_those_of_each(
    traces: list[PromptTrace], rng: np.random.Generator, costs: CostTable, name: str
) -> None:
    all_rates, score = prior_rates(), random_score(rng)
    some = {"bigrams": all_rates["bigrams"]}
    cases = [(all_rates, None), (rates_of(rng), None), (some, None), (all_rates, score), (some, score)]
    for rates, own_score in cases:
        plan = TreePlan(rates=rates, stores=stores_of(rng), score=own_score, **PLANS[name])  # type: ignore[arg-type]
        assert grows_at_once(plan)
        places = [(t, s) for t, trace in enumerate(traces) for s in range(1, trace.num_positions)]
        text, start = np.array(places).T
        drafted, right = outcomes(Texts(traces), plan, text, start)
        expected, trees = [], dict[int, TreeReplay]()
        for t, s in places:
            replayed = trees.setdefault(t, TreeReplay(traces[t], 4))
            tree = replayed.grow(plan, s, plan.max_depth)
            expected.append((tree.num_drafted, len(right_path(tree, traces[t], s)[0])))
        assert list(zip(drafted.tolist(), right.tolist(), strict=True)) == expected
        assert max(right) > 0 or "context" not in rates
        slow = replay_stepwise(traces, TreePolicy(plan), costs, 4, "none")
        fast = replay_plan(traces, plan, costs, 4)
        for field in ("num_tokens", "num_steps", "num_drafted", "num_accepted", "num_layer_calls"):
            np.testing.assert_array_equal(getattr(fast, field), getattr(slow, field), err_msg=field)
        np.testing.assert_allclose(fast.work, slow.work, rtol=1e-12)


def test_other_growths_and_sources_are_left_to_the_reference() -> None:
    rates = prior_rates()
    assert not grows_at_once(TreePlan(7, rates, growth="eagle2"))
    assert not grows_at_once(TreePlan(7, rates, exit_layer=3))
    assert not grows_at_once(TreePlan(7, {**rates, "earlier": rates["context"]}))
    assert not grows_at_once(TreePlan(0, rates))
