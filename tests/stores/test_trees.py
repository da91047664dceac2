"""Tree settings by name: each decodes exactly, prices decide sizes, and the guard closes where nothing pays."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.stores import auto
from specbound.stores.auto import auto_policy
from specbound.stores.trees import TREE_POLICIES, TreeSituation, free_tree, tree_policy
from specbound_controller.costs import ROW_KNOTS, WORK_NAMES, CostTable, with_all_calls
from specbound_controller.errors import InputError, MissingExtraError
from specbound_controller.sources.bigrams import BigramTable
from specbound_controller.sources.stores import Stores
from specbound_controller.trees.policy import TreePolicy
from specbound_controller.trees.priced import PricedTreePolicy
from tests.decoding.families import random_model, random_prompt

NUM_LAYERS = 4


def costs(per_row: float) -> CostTable:
    """A layer call costs 1 ms and so much more for every further row; nothing else costs anything."""
    calls = {f"layer_calls_rows_{rows}": 1e-3 * (1.0 + per_row * (rows - 1)) for rows in ROW_KNOTS}
    return CostTable({**dict.fromkeys(WORK_NAMES, 0.0), **calls}, "none", "made up", 0.0, 30)


def situation(per_row: float, stores: Stores | None = None) -> TreeSituation:
    best = np.random.default_rng(0).integers(97, size=(97, 4), dtype=np.int32)
    return TreeSituation(stores or Stores(BigramTable(best)), costs(per_row), NUM_LAYERS)


@pytest.mark.parametrize("name", TREE_POLICIES)
def test_every_named_tree_decodes_exactly(name: str) -> None:
    model, prompt = random_model("llama", dtype=torch.float64, num_layers=NUM_LAYERS), random_prompt(0, 9)
    expected = SpecBoundDecoder(model).generate(prompt, max_new_tokens=20, do_sample=False)
    decoder = SpecBoundDecoder(model, tree_policy(name, situation(0.001)))
    assert torch.equal(decoder.generate(prompt, max_new_tokens=20, do_sample=False), expected)


def drafted(per_row: float) -> float:
    """Drafts per step on a model whose text loops, so that the context knows what comes."""
    model, prompt = random_model("llama", dtype=torch.float64, num_layers=NUM_LAYERS), random_prompt(0, 9)
    decoder = SpecBoundDecoder(model, free_tree(situation(per_row)))
    stats = decoder.decode(prompt, max_new_tokens=60, do_sample=False).stats
    return stats.num_drafted / stats.num_steps


def test_dearer_rows_make_smaller_trees() -> None:
    free, cheap, dear = drafted(0.0), drafted(0.02), drafted(3.0)
    assert free > cheap > dear
    assert dear < 0.5


def test_the_guard_closes_where_drafts_are_never_right() -> None:
    wrong = Stores(BigramTable(np.full((97, 4), 96, dtype=np.int32)))
    policy = free_tree(situation(0.1, wrong))
    model, prompt = random_model("llama", dtype=torch.float64, num_layers=NUM_LAYERS), random_prompt(0, 9)
    policy.plan.rates["context"][:] = [0.0] * len(policy.plan.rates["context"])
    policy.plan.rates["recycled"][:] = [0.0] * 8
    SpecBoundDecoder(model, policy).decode(prompt, max_new_tokens=80, do_sample=False)
    assert policy.guard.num_pauses > 0


def test_a_name_that_is_none_is_refused_and_sources_without_a_store_are_left_out() -> None:
    with pytest.raises(InputError, match="free_tree"):
        tree_policy("oak", situation(0.1))
    assert set(situation(0.1, Stores()).rates()) == {"context", "recycled"}


def test_the_auto_policy_measures_and_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    model, lines = random_model("llama", num_layers=2), list[str]()
    monkeypatch.setattr(auto, "local_costs", lambda *arguments: (costs(0.01), "costs: made up"))
    policy = auto_policy(model, say=lines.append)
    assert isinstance(policy, PricedTreePolicy)
    assert lines[0] == "costs: made up"
    assert policy.plan.stores.bigrams is not None
    monkeypatch.setattr(auto, "local_costs", lambda *arguments: None)
    with pytest.raises(MissingExtraError, match="profile"):
        auto_policy(model)


def test_a_decoder_takes_policies_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(auto, "local_costs", lambda *arguments: (costs(0.01), "costs: made up"))
    model, prompt = random_model("llama", num_layers=2), random_prompt(0, 9)
    expected = SpecBoundDecoder(model).generate(prompt, max_new_tokens=20, do_sample=False)
    for name, kind in (("auto", PricedTreePolicy), ("tree7", TreePolicy)):
        decoder = SpecBoundDecoder(model, policy=name)
        assert isinstance(decoder.policy, kind)
        assert torch.equal(decoder.generate(prompt, max_new_tokens=20, do_sample=False), expected)
    with pytest.raises(InputError, match=r"policy must be plain, auto, one of free_tree, .*, got 'oak'"):
        SpecBoundDecoder(model, policy="oak")


def test_tables_from_before_wide_calls_had_prices_go_on_with_their_line() -> None:
    whole = dict(costs(0.5).coefficients)
    for rows in (3, 5, 9, 17, 33, 64):
        del whole[f"layer_calls_rows_{rows}"]
    assert with_all_calls(whole) == pytest.approx(dict(costs(0.5).coefficients))
    falling = {**whole, "layer_calls_rows_32": whole["layer_calls_rows_16"]}
    assert with_all_calls(falling)["layer_calls_rows_64"] == whole["layer_calls_rows_16"]


@pytest.mark.parametrize("name", ["tree7", "free_tree", "exit1_tree7", "token_recycling", "eagle2"])
@pytest.mark.parametrize("source", ["recycled", "bigrams"])
def test_a_source_can_be_left_out(name: str, source: str) -> None:
    given = situation(0.1)
    whole, part = (tree_policy(each, given) for each in (name, f"{name}_without_{source}"))
    assert isinstance(whole, TreePolicy | PricedTreePolicy) and type(part) is type(whole)
    assert set(whole.plan.rates) - set(part.plan.rates) == {source}
    assert replace(part.plan, rates=whole.plan.rates) == whole.plan


@pytest.mark.parametrize("name", ["tree7_without_", "tree7_without_exits", "oak_without_context"])
def test_what_is_left_out_must_be_a_source(name: str) -> None:
    with pytest.raises(InputError, match="TREE_without_SOURCE"):
        tree_policy(name, situation(0.1))
