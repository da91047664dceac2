"""The race of draft trees: who runs, who wins, and that the winner is what the policy plays."""

from dataclasses import asdict
from pathlib import Path

import pytest

from specbound.evaluation.best_static import StaticSearch
from specbound.evaluation.best_tree import TreeChoice, choose_tree, entrants
from specbound.stores.trees import TreeSituation, tree_policy
from specbound_controller.errors import InputError
from specbound_controller.sources.stores import Stores
from specbound_controller.trees.names import is_tree_name
from specbound_controller.trees.policy import TreePolicy
from specbound_controller.trees.priced import PricedTreePolicy
from tests.evaluation.test_best_static import search  # noqa: F401


def test_free_trees_and_those_of_the_shallowest_exits_run() -> None:
    assert entrants((0, 4, 2, 6)) == [
        *("chain4", "tree2", "tree3", "tree7", "tree15", "free_tree"),
        *("exit2_tree7", "exit2_tree15", "exit4_tree7", "exit4_tree15"),
    ]
    assert all(is_tree_name(name) for name in entrants((1,))) and not is_tree_name("exit0_tree7")


def test_a_race_ranks_all_and_the_first_tree_is_played(
    search: StaticSearch,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    situation = TreeSituation(Stores(), search.costs, search.loaded.model.config.num_hidden_layers)
    said: list[str] = []
    choice = choose_tree(search, situation, said.append)
    assert {each.name for each in choice.ranking} == {*entrants(search.exit_layers), "plain"}
    assert "trees race on 1 tuning prompts" in said[0] and len(said) == 4
    assert TreeChoice.from_dict(asdict(choice)) == choice
    assert f"({choice.name}), the fastest of {len(choice.ranking) - 1} raced on 4 prompts" in choice.describe()
    policy = choice.policy(situation)
    if choice.name == "free_tree":
        assert isinstance(policy, PricedTreePolicy)
    else:
        assert isinstance(policy, TreePolicy) and str(policy.plan.max_nodes) in choice.name


def test_trees_of_exits_have_names() -> None:
    situation = TreeSituation(Stores(), None, 8)  # type: ignore[arg-type]
    policy = tree_policy("exit3_tree12", situation)
    assert isinstance(policy, TreePolicy)
    assert (policy.plan.exit_layer, policy.plan.max_nodes) == (3, 12)
    with pytest.raises(InputError, match="exitE_treeN, or TREE_without_SOURCE, got 'exit3_tree'"):
        tree_policy("exit3_tree", situation)
