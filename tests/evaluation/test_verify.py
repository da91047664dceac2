"""Verification: what is compared, counted and reported."""

from pathlib import Path

import pytest
import torch

from specbound.decoding.stats import DecodeStats
from specbound.evaluation.verify import (
    Comparison,
    RandomPolicy,
    compare,
    decode_all,
    for_prompt,
    new_decoder,
    new_policy,
    num_differing_tokens,
    verify,
)
from specbound.evaluation.verify_config import VerifyConfig
from specbound.models.loading import load_model
from specbound_controller.errors import InputError
from specbound_controller.policy import StaticPolicy


def test_differing_tokens_are_counted_place_by_place() -> None:
    assert num_differing_tokens([1, 2, 3], [1, 2, 3]) == 0
    assert num_differing_tokens([1, 2, 3], [1, 5, 3]) == 1
    assert num_differing_tokens([1, 2, 3], [1]) == num_differing_tokens([1], [1, 2, 3]) == 2


def test_every_prompt_has_a_seed_of_its_own() -> None:
    assert for_prompt({"max_new_tokens": 3}, 4) == {"max_new_tokens": 3}
    assert for_prompt({"seed": 10}, 4) == {"seed": 14}


def test_a_random_policy_tries_everything_and_repeats_with_its_seed() -> None:
    first, again = (RandomPolicy(6, seed=2) for _ in range(2))
    decisions = [first.decide(None) for _ in range(300)]
    assert [again.decide(None).exits() for _ in range(300)] == [decision.exits() for decision in decisions]
    assert {decision.w_max for decision in decisions} == set(range(RandomPolicy.MAX_WIDTH + 1))
    assert {exit_layer for decision in decisions for exit_layer, _ in decision.exits()} == {0, 1, 2, 3, 4, 5}
    assert {decision.combine for decision in decisions} == {"token", "product"}
    assert any(not decision.exits() for decision in decisions)
    assert RandomPolicy(2, seed=0).decide(None).w_max <= RandomPolicy.MAX_WIDTH  # a model with a single exit


def test_the_policy_is_the_controller_where_there_is_one() -> None:
    assert VerifyConfig().policies == ("controller", "random", "trees")
    assert VerifyConfig(controller="none").policies == ("layerskip", "random", "trees")
    assert VerifyConfig(model="mine").policies == ("layerskip", "random", "trees")
    assert VerifyConfig(model="mine", controller="mine", policy=("static",)).policies == ("static",)
    with pytest.raises(InputError, match="policy must name"):
        VerifyConfig(policy=())


def test_an_output_of_another_length_limit_is_a_difference(tiny_model_dir: Path) -> None:
    loaded = load_model(str(tiny_model_dir))
    loaded.model.generation_config.eos_token_id = None
    ids = torch.tensor([[3, 4, 5]])
    settings = {"max_new_tokens": 12}
    (expected,), stats = decode_all(new_decoder(loaded, None, "token"), [ids], settings)
    assert stats.num_tokens == len(expected) == 12
    decoder = new_decoder(loaded, StaticPolicy((1,), 0.0, 3), "token")
    same = compare("fixed", decoder, [("p", ids)], [expected], settings)
    assert (same.num_tokens, same.num_differing_tokens, same.differences, same.num_bugs) == (12, 0, (), 0)
    assert same.row().outputs_equal is True
    longer = compare("fixed", decoder, [("p", ids)], [[*expected, 1]], settings)
    (difference,) = longer.differences
    assert (difference.position, difference.expected, difference.actual) == (12, 1, None)
    assert (longer.num_differing_tokens, longer.num_bugs, longer.row().outputs_equal) == (1, 1, False)


def test_the_learned_controller_runs_without_measuring_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specbound.pricing.local._measure", lambda *arguments: pytest.fail("measured"))
    said: list[str] = []
    config = VerifyConfig(num_prompts=1, max_new_tokens=12, policy=("controller",))
    result = verify(config, said.append)
    (comparison,) = result.comparisons
    assert isinstance(comparison, Comparison) and comparison.stats.num_drafted > 0
    assert result.num_bugs == 0 and result.notes == [] and result.differences() == []
    assert said == ["none: plain decoding of 1 prompts", "none: controller"]
    assert result.model["name"] == "demo"


def test_policies_of_a_two_layer_model_have_exits_inside_it(tiny_model_dir: Path) -> None:
    loaded = load_model(str(tiny_model_dir))
    loaded.model.config.num_hidden_layers = 2
    for name in ("static", "layerskip"):
        exits = new_policy(name, loaded, None, 0).decide(None).exits()
        assert {exit_layer for exit_layer, _ in exits} == {1}


def test_counts_of_no_prompts_are_empty() -> None:
    assert Comparison("static", "none", "token", 0, 0, 0, DecodeStats(), ()).num_near_ties == 0
