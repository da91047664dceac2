"""Names become policies in one place."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from specbound.policies import POLICY_NAMES, TunedPolicies, learned_action, static_policy
from specbound_controller.actions import PLAIN, Action, static_grid
from specbound_controller.baselines.fixed import LayerSkipSettings, StaticSettings
from specbound_controller.baselines.lengths import HeuristicSettings
from specbound_controller.baselines.logistic import LogisticSettings
from specbound_controller.baselines.tuned import Tuned, TunedFile, TunedLevel
from specbound_controller.controller import Controller
from specbound_controller.costs import WORK_NAMES, CostTable
from specbound_controller.errors import InputError
from specbound_controller.features import FEATURE_NAMES
from specbound_controller.policy import AnnealedConfidence
from specbound_controller.score import LearnedScore
from tests.controller.conftest import make_controller, table

COSTS = table()
SETTINGS = {
    "best_static": StaticSettings(Action(2, 4, 0.5, "annealed"), 0.25),
    "layerskip": LayerSkipSettings(2, 3),
    "hf_heuristic": HeuristicSettings(2, 4, 8),
    "logistic": LogisticSettings(2, ((0.0,) * 6,) * 9, 1.25, 60),
}


def file_of(**changes: object) -> TunedFile:
    level = TunedLevel(0.25, 10.0, "token", {name: Tuned(s, 12.5, 7) for name, s in SETTINGS.items()})
    fields = {
        "model_fingerprint": "a" * 64,
        "num_layers": 12,
        "exit_layers": (2, 4),
        "prompts_hash": "b" * 64,
        "num_prompts": 60,
        "budget": 85,
        "levels": {"none": level, "nf4": replace(level, policies={"layerskip": level.policies["layerskip"]})},
    }
    return TunedFile(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.fixture
def tuned(tmp_path: Path) -> TunedPolicies:
    path = tmp_path / "policies.json"
    file_of().save(path)
    return TunedPolicies.load(path)


def test_names_are_those_that_every_level_has(tuned: TunedPolicies) -> None:
    assert tuned.names == ("plain", "layerskip")
    assert tuned.compressions == ("none", "nf4")
    only = TunedPolicies(replace(tuned.file, levels={"none": tuned.file.levels["none"]}), "here")
    assert only.names == ("plain", "best_static", "layerskip", "hf_heuristic", "logistic")
    assert set(only.names) <= set(POLICY_NAMES)


def test_settings_become_decisions(tuned: TunedPolicies) -> None:
    assert tuned.policy("plain", "nf4", COSTS).decide(None).w_max == 0
    assert tuned.policy("layerskip", "nf4", COSTS).decide(None).exits() == ((2, 0.0),)
    decision = tuned.policy("best_static", "none", COSTS).decide(None)
    assert (decision.w_max, decision.exits()) == (4, ((2, 0.5),)) and decision.score == AnnealedConfidence(0.25)
    other = tuned.policy("best_static", "none", COSTS, alpha=0.75).decide(None)
    assert other.score == AnnealedConfidence(0.75)


def test_every_call_makes_a_policy_of_its_own(tuned: TunedPolicies) -> None:
    first, second = (tuned.policy("hf_heuristic", "none", COSTS) for _ in range(2))
    assert first is not second and first.decide(None).w_max == second.decide(None).w_max == 4


def test_costs_reach_the_policies_that_price_their_choices(tuned: TunedPolicies) -> None:
    dear = dict.fromkeys(WORK_NAMES, 1e-3) | {"head_reads": 1.0}
    costs = CostTable(dear, "none", "synthetic", 0.0, 300)
    assert tuned.policy("logistic", "none", COSTS).decide(None).w_max == 9
    assert tuned.policy("logistic", "none", costs).decide(None).w_max == 0  # a read costs as much as a plain token


def test_controller_and_its_score_at_one_action(tuned: TunedPolicies) -> None:
    controller = make_controller()
    features = controller.sample.features[0]
    adaptive = tuned.policy("controller", "none", COSTS, controller)
    assert adaptive.needs_features and adaptive.decide(features) in adaptive.decisions  # type: ignore[attr-defined]
    action = learned_action(controller, "none", COSTS)
    decision = tuned.policy("best_static_learned", "none", COSTS, controller).decide(features)
    assert isinstance(decision.score, LearnedScore) and decision.score.mlp is controller.score_mlp
    assert action.score == "learned"
    assert (decision.w_max, dict(decision.thresholds)) == (action.width, {action.exit_layer: action.threshold})


def test_learned_action_is_the_fastest_on_the_sample_of_its_level() -> None:
    controller = make_controller()
    emitted, seconds = controller.step_policy.table(
        controller.sample.features, controller.sample.context_lengths, COSTS, controller.config.num_layers
    )
    speeds = emitted.sum(axis=0) / seconds.sum(axis=0)
    is_learned = np.array([action.score == "learned" for action in controller.config.actions])
    best = int(np.where(is_learned, speeds, 0.0).argmax())
    assert learned_action(controller, "none", COSTS) == controller.config.actions[best]
    # rows of another level do not count
    features = np.concatenate([controller.sample.features] * 2)
    features[50:, FEATURE_NAMES.index("compression_none")] = 0.0
    features[50:, FEATURE_NAMES.index("compression_nf4")] = 1.0
    features[50:, :10] += 30.0
    sample = replace(controller.sample, features=features, weights=np.ones(100, dtype=np.float32))
    both = Controller(controller.config, controller.score_mlp, controller.step_mlp, sample)
    assert learned_action(both, "none", COSTS) == controller.config.actions[best]


def test_constants_are_said_in_one_line(tuned: TunedPolicies) -> None:
    line = tuned.describe("best_static", "none")
    assert line == "exit2_width4_annealed0.5, alpha 0.25; the best of 7 settings on 60 prompts"
    assert tuned.describe("logistic", "none").startswith(
        "exit_layer 2, 9 x 6 weights, speedup 1.25, context_length 60;"
    )


@pytest.mark.parametrize(
    ("name", "compression", "message"),
    [
        ("svip", "none", "policy 'svip' was not tuned for none"),
        ("best_static", "nf4", "policy 'best_static' was not tuned for nf4"),
        ("layerskip", "int8", "policies were tuned for none, nf4, got compression 'int8'"),
        ("medusa", "none", "policy must be one of plain, "),
        ("controller", "none", "policy controller needs --controller"),
        ("best_static_learned", "none", "policy best_static_learned needs --controller"),
    ],
)
def test_what_there_is_not_is_refused_by_name(tuned: TunedPolicies, name: str, compression: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        tuned.policy(name, compression, COSTS)


def test_another_model_is_refused(tuned: TunedPolicies) -> None:
    tuned.check_model("a" * 64, 12)
    with pytest.raises(InputError, match="tuned for a model of 12 layers, got one of 16"):
        tuned.check_model("a" * 64, 16)
    with pytest.raises(InputError, match="fingerprint aaaaaaaaaaaaaaaa, got bbbb"):
        tuned.check_model("b" * 64, 12)


def test_plain_decoding_may_be_the_best_static_action(tuned: TunedPolicies) -> None:
    level = tuned.file.levels["none"]
    plain = replace(level, policies={"best_static": Tuned(StaticSettings(PLAIN), 10.0, 7)})
    policies = TunedPolicies(replace(tuned.file, levels={"none": plain}), "here")
    assert policies.policy("best_static", "none", COSTS).decide(None).w_max == 0
    assert policies.describe("best_static", "none").startswith("plain, alpha 0;")


def test_a_static_policy_plays_all_of_its_action() -> None:
    """Also the lookup that comes before the exit."""
    grid = static_grid((0, 2, 5))
    assert any(action.lookup_threshold for action in grid)
    for action in grid:
        decision = static_policy(action, 0.25).decide(None)
        asked = action.decision({"annealed": AnnealedConfidence(0.25)})
        assert (decision.w_max, decision.thresholds, decision.combine) == (asked.w_max, asked.thresholds, asked.combine)
