"""Where the policies of an evaluation come from."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from specbound.evaluation.config import EVALUATED_POLICIES, FIXED_POLICIES, EvaluateConfig
from specbound.evaluation.policies import Sources, stored_static
from specbound.policies import POLICY_NAMES
from specbound_controller.actions import Action, action_grid
from specbound_controller.costs import WORK_NAMES, CostTable
from specbound_controller.errors import InputError
from specbound_controller.policy import StaticPolicy

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
    )


def summary(**actions: str) -> dict[str, Any]:
    return {"levels": [{"compression": level, "best_static": name} for level, name in actions.items()]}


def test_every_policy_but_plain_decoding_can_be_asked_for() -> None:
    assert set(EVALUATED_POLICIES) == set(POLICY_NAMES) - {"plain"}
    assert EVALUATED_POLICIES[: len(FIXED_POLICIES)] == FIXED_POLICIES


def test_the_setting_of_training_is_found_by_its_name() -> None:
    stored, wanted = (
        with_summary(summary(none="exit3_width6_annealed0.2_token")),
        Action(3, 6, 0.2, "annealed", "token"),
    )
    assert stored_static(stored, "none") == wanted
    assert stored_static(stored, "int8") == wanted  # the level that stands in
    assert stored_static(with_summary({}), "none") is None
    assert stored_static(with_summary(summary(none="exit99_width1")), "none") is None


def test_the_setting_of_training_is_that_of_the_nearest_temperature() -> None:
    found = [
        {"compression": "none", "sampling_temperature": temperature, "best_static": name}
        for temperature, name in ((0.0, "exit3_width6"), (0.7, "exit2_width1"))
    ]
    stored = with_summary({"levels": found})
    actions = [stored_static(stored, "none", temperature) for temperature in (0.0, 0.3, 0.6, 1.0)]
    assert actions == [Action(3, 6), Action(3, 6), Action(2, 1), Action(2, 1)]
    config = EvaluateConfig(policy=("best_static",), sample=True, temperature=0.8)
    choice = Sources.open(config, stored).choose("none", COSTS)
    assert choice.policies["best_static"].decide(None).exits() == ((2, 0.0),)


@pytest.mark.usefixtures("controller")
def test_without_a_file_there_are_the_policies_of_the_controller() -> None:
    stored = with_summary(summary(none="exit2_width4"), static_actions={"none": Action(3, 1)})
    sources = Sources.open(EvaluateConfig(), stored)
    choice = sources.choose("none", COSTS)
    assert list(choice.policies) == ["best_static", "best_static_learned", "controller"]
    static = choice.policies["best_static"]
    assert isinstance(static, StaticPolicy)
    assert static.decide(None).exits() == ((2, 0.0),) and static.decide(None).w_max == 4
    assert "controller: found nothing faster in training than exit3_width1 at every step" in choice.notes
    assert not set(choice.policies) - set(sources.available("none"))


def test_without_anything_there_is_nothing() -> None:
    assert Sources.open(EvaluateConfig(controller="none"), None).choose("none", COSTS).policies == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy": ("best_static",), "controller": "none"}, "best_static needs --policies"),
        ({"policy": ("best_static_annealed",)}, "best_static_annealed needs --policies"),
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


def test_the_fixed_settings_of_a_log_are_the_fastest_on_it(
    controller: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Seconds are made up: the grid's seventh action is fastest, its last annealed one among those that test."""

    class Log:
        root = tmp_path

        class manifest:
            exit_layers, num_layers, compressions, num_prompts = (1, 2), 4, ("bf16",), 5

            @staticmethod
            def drafted_tokens() -> None:
                return None

        def iter_shards(self, level: str) -> list[list[str]]:
            assert level == "bf16"
            return [["one"], ["two"]]

    def seconds(shard: list[str], costs: CostTable, decisions: list[Any], num_layers: int) -> Any:
        import numpy as np

        found = np.arange(len(decisions), dtype=float)[::-1].copy()
        found[6] = -9.0 if len(decisions) > 30 and decisions[0].w_max == 0 else 0.0
        return found

    find: Callable[..., Any] = seconds
    monkeypatch.setattr("specbound.evaluation.policies.static_seconds", find)
    monkeypatch.setattr("specbound.evaluation.policies.open_log", lambda path: Log())
    config = EvaluateConfig(log="log", policy=("best_static", "best_static_annealed"), compression=("int8",))
    choice = Sources.open(config, controller).choose("int8", COSTS)
    best, annealed = (choice.policies[name].decide(None) for name in ("best_static", "best_static_annealed"))
    assert best.score is None or best.exits()[0][1] == 0.0  # the seventh: a fixed draft
    assert annealed.exits()[0][1] > 0
    assert "chosen on 5 prompts of a log at compression bf16" in choice.notes[0]
