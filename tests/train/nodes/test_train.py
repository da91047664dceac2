"""A log that holds what trees need gives a controller with a score of tree nodes; replay plays it by name."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from specbound.policies import controller_policy
from specbound_controller.controller import Controller
from specbound_controller.costs import CostTable
from specbound_controller.errors import InputError
from specbound_controller.guarded import GuardedPolicy
from specbound_controller.trees.rates import prior_rates
from specbound_controller.trees.settings import TreeSources
from specbound_profiling.log.store import open_log
from specbound_profiling.log.stores import checksums, write_log_stores
from specbound_train import policy_search
from specbound_train.config import TrainConfig
from specbound_train.train import train_controller
from tests.train.nodes.conftest import KnownText


@pytest.fixture(scope="module")
def log(
    tmp_path_factory: pytest.TempPathFactory,
    known: KnownText,
    log_of: Callable[..., Path],
    costs_of: Callable[..., CostTable],
) -> Path:
    root = tmp_path_factory.mktemp("trees") / "log"
    log_of(root, {"none": known.traces[:6]}, costs_of(), stores=checksums(known.stores))
    write_log_stores(root, known.stores, "f" * 64)
    return root


def test_a_controller_of_a_log_with_trees_has_them(
    log: Path, known: KnownText, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_search, "NUM_ITERATIONS", 1)  # of chains, which are not the matter here
    settings = {"epochs": 3, "max_rounds": 1, "widths": (1, 2), "thresholds": (0.5,), "tree_hidden_units": 8}
    summary = train_controller(TrainConfig(str(log), str(tmp_path / "own"), report=False, **settings))  # type: ignore[arg-type]
    assert summary.trees is not None and "score of tree nodes on" in str(summary)
    controller = Controller.load(tmp_path / "own")
    trees, costs = controller.config.trees, open_log(log).costs["none"]
    assert trees is not None and trees.played == summary.trees.played
    (level,), (chains,) = summary.trees.levels, summary.levels
    assert (trees.played == ("none",)) == (level.learned_speedup > chains.controller_speedup)
    sources = TreeSources(known.stores, prior_rates())
    policy = controller_policy("learned_tree", "none", costs, controller, lambda: sources)
    assert policy.decide(None).tree.score is controller.node_score  # type: ignore[union-attr]
    played = replace(controller, config=replace(controller.config, trees=replace(trees, played=("none",))))
    assert isinstance(controller_policy("controller", "none", costs, played, lambda: sources), GuardedPolicy)
    never = replace(controller, config=replace(controller.config, trees=replace(trees, played=())))
    for other, given in ((never, lambda: sources), (played, None)):
        chain = controller_policy("controller", "none", costs, other, given)
        assert not isinstance(chain, GuardedPolicy)
    bare = replace(controller, config=replace(controller.config, trees=None), node_mlp=None)
    bare.save(tmp_path / "bare")
    again = Controller.load(tmp_path / "bare")
    assert again.node_score is None and '"trees": {\n  "sources"' not in (tmp_path / "bare/config.json").read_text()
    with pytest.raises(
        InputError, match="policy learned_tree needs a controller that was trained on a log of schema 3"
    ):
        controller_policy("learned_tree", "none", costs, again, lambda: sources)
    arrays = {name: np.zeros_like(array) for name, array in controller.node_mlp.arrays("nodes").items()}  # type: ignore[union-attr]
    assert set(arrays) <= set(controller._arrays())
    with pytest.raises(ValueError, match="the nodes network must be there exactly where"):
        replace(controller, node_mlp=None)
