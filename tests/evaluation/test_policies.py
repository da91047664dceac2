"""Where the policies of an evaluation come from."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from specbound.evaluation.best_static import Ranked, StaticChoice
from specbound.evaluation.config import EVALUATED_POLICIES, FIXED_POLICIES, EvaluateConfig
from specbound.evaluation.policies import Sources
from specbound.policies import POLICY_NAMES
from specbound.stores.trees import TreeSituation
from specbound_controller.actions import Action, action_grid
from specbound_controller.costs import WORK_NAMES, CostTable
from specbound_controller.errors import InputError
from specbound_controller.policy import StaticPolicy
from specbound_controller.sources.stores import Stores
from specbound_controller.trees.policy import TreePolicy

COSTS = CostTable(dict.fromkeys(WORK_NAMES, 1e-4), "none", "made up", 0.0, 30)


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What an evaluation reads of a controller trained on fp32."""
    monkeypatch.setattr("specbound.evaluation.policies.controller_policy", lambda name, *arguments: StaticPolicy((1,)))
    monkeypatch.setattr("specbound.evaluation.policies.learned_action", lambda *arguments: Action(1, 2, 0.5, "learned"))
    return with_summary({})


def with_summary(summary: Mapping[str, Any], static_actions: Mapping[str, Action] | None = None) -> Any:
    return SimpleNamespace(
        config=SimpleNamespace(
            exit_layers=(1, 2, 3),
            compressions=("none",),
            actions=action_grid((1, 2, 3)),
            alpha=0.5,
            static_actions=static_actions or {},
            summary=summary,
        ),
        draft_vocabulary=None,
        node_score=None,
        plays_trees=lambda compression: False,
    )


def raced(*names: str) -> StaticChoice:
    """What a race found, the fastest first."""
    ranking = tuple(Ranked(name, 9.0 - place, 1.5, 3) for place, name in enumerate((*names, "plain")))
    return StaticChoice(0.25, ranking, 99, 3, "others", 0.0, "2026-01-01", (0, 1, 2, 3))


def test_every_policy_but_plain_decoding_can_be_asked_for() -> None:
    assert set(EVALUATED_POLICIES) == set(POLICY_NAMES) - {"plain"}
    assert EVALUATED_POLICIES[: len(FIXED_POLICIES)] == FIXED_POLICIES


@pytest.mark.usefixtures("controller")
def test_without_a_file_there_are_the_policies_of_the_controller() -> None:
    stored = with_summary({}, static_actions={"none": Action(3, 1)})
    sources = Sources.open(EvaluateConfig(), stored)
    choice = sources.choose("none", COSTS, raced("exit2_width4", "exit2_width4_annealed0.2"))
    assert list(choice.policies) == ["best_static", "best_static_annealed", "best_static_learned", "controller"]
    assert (
        "controller: found nothing faster in training than exit 3, one token (exit3_width1) at every step"
        in choice.notes
    )
    assert not set(choice.policies) - set(sources.available)


def test_without_anything_there_are_fixed_settings_and_no_race_where_none_is_asked_for() -> None:
    sources = Sources.open(EvaluateConfig(controller="none"), None)
    assert sources.needs_race
    assert list(sources.choose("none", COSTS, raced("plain", "exit1_width1_annealed0.1")).policies) == [
        "best_static",
        "best_static_annealed",
    ]
    assert not Sources(("controller",), None, None).needs_race


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy": ("best_static_learned",), "controller": "none"}, "best_static_learned needs --policies"),
        ({"policies": "nowhere.json"}, "nowhere.json"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_decoded(
    controller: Any, arguments: dict[str, Any], message: str
) -> None:
    config = EvaluateConfig(**arguments)
    with pytest.raises(InputError, match=message):
        Sources.open(config, None if config.controller_name == "none" else controller)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy": ("svip",)}, "svip needs --policies"),
        ({"policy": ("best",)}, "policy must be one of best_static, "),
        ({"policy": ("controller",), "controller": "none"}, "needs a controller"),
        ({"compression": ("none", "none")}, "must not repeat"),
        ({"rounds": 0}, "rounds must be >= 1"),
        ({"temperature": 0.5}, "need sample"),
        ({"exactness": "exact"}, "exactness must be one of auto, token, bitwise"),
    ],
)
def test_bad_options_are_refused_in_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EvaluateConfig(**arguments)


@pytest.mark.usefixtures("controller")
def test_the_fixed_settings_are_those_that_won_the_race() -> None:
    both = ("best_static", "best_static_annealed")
    lookup = "lookup0.5_exit2_width3_annealed0.55_token"
    choice = Sources.open(EvaluateConfig(policy=both), with_summary({})).choose(
        "none", COSTS, raced("exit2_width4", lookup)
    )
    best, annealed = (choice.policies[name].decide(None) for name in both)
    assert best.exits() == ((2, 0.0),) and best.w_max == 4
    assert annealed.exits() == ((0, 0.5), (2, 0.55)) and annealed.w_max == 3
    assert (
        "exit 2, four tokens (exit2_width4), the fastest of 2 raced on 3 prompts of others" in choice.notes[0]
        and lookup in choice.notes[1]
    )


@pytest.mark.usefixtures("controller")
def test_one_setting_is_not_measured_twice_unless_asked_for() -> None:
    static = raced("exit2_width4_annealed0.2", "exit2_width4")
    assert (
        "best_static_annealed"
        not in Sources.open(EvaluateConfig(), with_summary({})).choose("none", COSTS, static).policies
    )
    asked = EvaluateConfig(policy=("best_static_annealed",))
    assert list(Sources.open(asked, with_summary({})).choose("none", COSTS, static).policies) == [
        "best_static_annealed"
    ]


def test_draft_trees_are_evaluated_by_name() -> None:
    config = EvaluateConfig(policy=("best_static", "tree7"), controller="none")
    sources = Sources.open(config, None)
    assert sources.needs_trees("none")
    assert not Sources.open(EvaluateConfig(controller="none"), None).needs_trees("none")
    trees = TreeSituation(Stores(), COSTS, 4)
    choice = Sources(("tree7",), None, None).choose("none", COSTS, None, trees)
    policy = choice.policies["tree7"]
    assert isinstance(policy, TreePolicy) and policy.plan.max_nodes == 7
