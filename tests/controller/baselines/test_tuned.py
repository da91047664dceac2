"""The file of tuned settings: what is written is read, and everything else is refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from specbound_controller.actions import PLAIN, Action, static_grid
from specbound_controller.baselines import BASELINES
from specbound_controller.baselines.draft_verify import DraftVerifySettings
from specbound_controller.baselines.fixed import LayerSkipSettings, StaticSettings
from specbound_controller.baselines.lengths import GammaTuneSettings, HeuristicSettings
from specbound_controller.baselines.logistic import LogisticSettings
from specbound_controller.baselines.situation import Search, Settings, Situation
from specbound_controller.baselines.speckv import SpecKVSettings
from specbound_controller.baselines.svip import SvipSettings
from specbound_controller.baselines.tuned import SETTINGS, Tuned, TunedFile, TunedLevel
from specbound_controller.baselines.ucb import UcbSettings
from specbound_controller.costs import CostTable
from specbound_controller.errors import InputError

PREDICTOR = SpecKVSettings(2, (1, 2), ((0.5,) * 11,) * 3, (0.0,) * 3, ((1.0,) * 3,), (0.25,), (0.5,) * 4)
GIVEN: dict[str, Settings] = {
    "best_static": StaticSettings(PLAIN),
    "best_static_annealed": StaticSettings(Action(4, 6, 0.5, "annealed", "token"), 0.75),
    "layerskip": LayerSkipSettings(2, 3),
    "draft_verify": DraftVerifySettings(4, 8, 0.5, 0.9),
    "svip": SvipSettings(4, 6, 0.9),
    "gammatune": GammaTuneSettings(2, 3, 8, 0.5, 1.0),
    "hf_heuristic": HeuristicSettings(2, 4, 20),
    "logistic": LogisticSettings(2, ((0.1, -0.2, 0.3, 0.4, 0.5, -1.5),) * 4, 1.25, 60),
    "speckv": PREDICTOR,
    "speckv_causal": SpecKVSettings(2, (2, 4), ((0.5,) * 11,), (0.0,), ((1.0,),), (0.25,)),
    "ucb": UcbSettings((PLAIN, Action(2, 3)), (1.0, 1.2), 10.0, 0.1),
}
SEARCH = Search((2, 4), static_grid((2, 4)), [1.0] * len(static_grid((2, 4))), 0.5)
EXAMPLES = {name: GIVEN.get(name) or next(iter(kind.candidates(SEARCH))) for name, kind in SETTINGS.items()}
"""A policy that is not given here is tried as its own first candidate."""


def example() -> TunedFile:
    policies = {name: Tuned(settings, 12.5, 7) for name, settings in EXAMPLES.items()}
    level = TunedLevel(0.75, 10.0, "token", policies)
    return TunedFile("a" * 64, 12, (2, 4), "b" * 64, 60, 85, {"none": level, "nf4": level})


def test_every_baseline_has_settings_and_an_example() -> None:
    assert set(SETTINGS) == set(EXAMPLES) == {*BASELINES, "best_static", "best_static_annealed"}
    assert all(type(EXAMPLES[name]) is SETTINGS[name] for name in EXAMPLES)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "policies.json"
    example().save(path)
    assert TunedFile.load(path) == example()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_setting_makes_a_policy_that_decides(name: str, costs_of: Callable[..., CostTable]) -> None:
    import numpy as np

    from specbound_controller.features import FEATURE_NAMES

    policy = EXAMPLES[name].policy(Situation(12, "none", costs_of()))
    policy.reset()
    features = np.zeros(len(FEATURE_NAMES), dtype=np.float32) if policy.needs_features else None
    assert policy.decide(features) in policy.decisions


def changed(path: tuple[str, ...], value: object) -> Callable[[dict[str, Any]], None]:
    """An edit of the file's content; `...` removes the key."""

    def edit(content: dict[str, Any]) -> None:
        for key in path[:-1]:
            content = content[key]
        if value is ...:
            del content[path[-1]]
        else:
            content[path[-1]] = value

    return edit


AT = ("levels", "none", "policies")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("schema",), 2, "schema must be 1, got 2"),
        (("num_layers",), "12", "num_layers must be int, got '12'"),
        (("num_layers",), 4, "exit_layers must be in [0, 3]"),
        (("prompts_hash",), ..., "prompts_hash is missing"),
        (("extra",), 1, "unknown key 'extra'"),
        (("levels",), {}, "levels must be among"),
        (("levels",), {"int3": {}}, "got 'int3'"),
        ((*AT, "medusa"), {}, "unknown policy 'medusa'"),
        ((*AT, "svip", "settings", "width"), 0, "none: svip: a draft's length must be in [1, 64], got 0"),
        ((*AT, "svip", "settings", "width"), True, "none: svip: width must be int, got True"),
        ((*AT, "svip", "settings", "exit_layer"), 3, "exit layers must be among [2, 4], got [3]"),
        ((*AT, "svip", "settings", "root_entropy"), ..., "root_entropy is missing"),
        ((*AT, "svip", "num_candidates"), 1.5, "num_candidates must be int"),
        ((*AT, "logistic", "settings", "weights"), [[1.0]], "weights must be rows of 6"),
        ((*AT, "speckv", "settings", "bias1"), [0.0], "bias1 must have shape (3,)"),
        ((*AT, "speckv", "settings", "bias1"), 1.0, "bias1 must be a list"),
        ((*AT, "ucb", "settings", "arms"), ["plain"], "arms must be Action"),
        ((*AT, "best_static", "settings", "action", "width"), 4, "none: best_static: action: "),
    ],
)
def test_anything_else_is_refused_in_one_line(
    path: tuple[str, ...], value: object, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "policies.json"
    example().save(file)
    content = json.loads(file.read_text())
    changed(path, value)(content)
    file.write_text(json.dumps(content))
    with pytest.raises(InputError) as error:
        TunedFile.load(file)
    assert message in str(error.value) and "\n" not in str(error.value) and str(file) in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "NaN", '{"schema": 1, "levels": []}'])
def test_files_that_are_no_settings_are_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "policies.json"
    file.write_text(text)
    with pytest.raises(InputError, match="holds no tuned policies"):
        TunedFile.load(file)
    with pytest.raises(InputError, match="cannot be read"):
        TunedFile.load(tmp_path / "missing.json")
