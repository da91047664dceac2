"""Storage of controllers, refusals, and the policy that they become."""

import json
import logging
import timeit
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from specbound_controller.actions import Action
from specbound_controller.config import content_sha256
from specbound_controller.controller import CONFIG_FILE, WEIGHTS_FILE, Controller, Sample
from specbound_controller.costs import CostTable
from specbound_controller.errors import InputError
from specbound_controller.features import FEATURE_NAMES, FeatureState
from specbound_controller.mlp import Mlp
from specbound_controller.policy import AnnealedConfidence
from specbound_controller.records import StepRecord


def features(seed: int, compression: str = "none") -> np.ndarray:
    state = FeatureState(compression)
    state.reset(10 + seed)
    vector = state.vector()
    vector[: FEATURE_NAMES.index("log_position")] = np.random.default_rng(seed).random(
        FEATURE_NAMES.index("log_position")
    )
    return vector


def test_round_trip_keeps_everything(controller_of: Callable[..., Controller], tmp_path: Path) -> None:
    values = tuple(0.01 * index for index in range(len(controller_of().config.actions)))
    controller = controller_of(
        static_actions={"none": Action(4, 2, 0.5, "annealed", "token")}, corrections={"none sampled": values}
    )
    controller.save(tmp_path / "c")
    loaded = Controller.load(tmp_path / "c")
    assert loaded.config == controller.config
    for name in ("score_mlp", "step_mlp"):
        for one, other in zip(
            getattr(controller, name).arrays("").values(), getattr(loaded, name).arrays("").values(), strict=True
        ):
            np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(controller.sample.features, loaded.sample.features)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [CONFIG_FILE, WEIGHTS_FILE]
    assert json.loads((tmp_path / "c" / CONFIG_FILE).read_text())["feature_names"] == list(FEATURE_NAMES)


def test_loaded_controller_decides_like_the_saved_one(
    controller_of: Callable[..., Controller], costs_of: Callable[..., CostTable], tmp_path: Path
) -> None:
    controller = controller_of()
    controller.save(tmp_path)
    one, other = (c.policy(costs_of(), "none") for c in (controller, Controller.load(tmp_path)))
    assert one.rho == other.rho
    assert [one.best_action(features(i)) for i in range(30)] == [other.best_action(features(i)) for i in range(30)]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schema", 99),
        ("schema", None),
        ("feature_names", ["a", "b"]),
        ("feature_names", 3),
        ("exit_layers", [4, 2]),
        ("exit_layers", [2, 40]),
        ("exit_layers", []),
        ("exit_layers", "24"),
        ("exit_layers", [2.5]),
        ("num_layers", 1),
        ("num_layers", True),
        ("compressions", ["int3"]),
        ("compressions", []),
        ("actions", []),
        ("actions", [{"exit_layer": 2}]),
        ("actions", [None]),
        ("alpha", "x"),
        ("alpha", -1.0),
        ("alpha", float("nan")),
        ("alpha", 10**400),
        ("slopes", [1.0]),
        ("static_actions", {"none": {"exit_layer": 3, "width": 1, "threshold": 0, "score": "fixed", "combine": "x"}}),
        ("static_actions", {"int3": None}),
        ("costs", {"none": {"coefficients": {}}}),
        ("costs", []),
        ("weights_sha256", "0" * 64),
    ],
)
def test_wrong_values_in_the_config_are_refused_in_one_line(
    controller_of: Callable[..., Controller], tmp_path: Path, key: str, value: object
) -> None:
    controller_of().save(tmp_path)
    content = json.loads((tmp_path / CONFIG_FILE).read_text())
    for damaged in ({**content, key: value}, {name: item for name, item in content.items() if name != key}):
        damaged["config_sha256"] = content_sha256(damaged)
        (tmp_path / CONFIG_FILE).write_text(json.dumps(damaged))
        with pytest.raises(InputError) as caught:
            Controller.load(tmp_path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, "\xff\xfe", '{"schema": 1}'])
def test_foreign_config_is_refused(controller_of: Callable[..., Controller], tmp_path: Path, text: str) -> None:
    controller_of().save(tmp_path)
    (tmp_path / CONFIG_FILE).write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"config\.json is not a controller's config"):
        Controller.load(tmp_path)


def test_weights_of_another_controller_are_refused(controller_of: Callable[..., Controller], tmp_path: Path) -> None:
    controller_of(0).save(tmp_path / "a")
    controller_of(1).save(tmp_path / "b")
    (tmp_path / "a" / WEIGHTS_FILE).write_bytes((tmp_path / "b" / WEIGHTS_FILE).read_bytes())
    with pytest.raises(InputError, match="sha256"):
        Controller.load(tmp_path / "a")


@pytest.mark.parametrize("change", ["missing", "shape", "dtype", "nan", "rows"])
def test_wrong_arrays_are_refused(
    controller_of: Callable[..., Controller], tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib

    controller_of().save(tmp_path)
    arrays = load_file(tmp_path / WEIGHTS_FILE)
    if change == "missing":
        del arrays["step.bias2"]
    elif change == "shape":
        arrays["step.weight2"] = arrays["step.weight2"][:, 1:].copy()
    elif change == "dtype":
        arrays["score.weight1"] = arrays["score.weight1"].astype(np.float64)
    elif change == "nan":
        arrays["step.bias1"][0] = np.nan
    else:
        arrays["sample.weights"] = arrays["sample.weights"][1:].copy()
    save_file(arrays, tmp_path / WEIGHTS_FILE)
    content = json.loads((tmp_path / CONFIG_FILE).read_text())
    content["weights_sha256"] = hashlib.sha256((tmp_path / WEIGHTS_FILE).read_bytes()).hexdigest()
    content["config_sha256"] = content_sha256(content)
    (tmp_path / CONFIG_FILE).write_text(json.dumps(content))
    with pytest.raises(InputError, match="holds no weights for this config"):
        Controller.load(tmp_path)


def test_missing_directory_and_file_are_named(controller_of: Callable[..., Controller], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="controller must be a directory"):
        Controller.load(tmp_path / "nowhere")
    controller_of().save(tmp_path)
    (tmp_path / CONFIG_FILE).unlink()
    with pytest.raises(InputError, match=r"config\.json cannot be read"):
        Controller.load(tmp_path)


def test_another_model_is_refused_with_both_values(controller_of: Callable[..., Controller]) -> None:
    controller = controller_of()
    controller.check_model("a" * 64, 12)
    with pytest.raises(InputError, match="12 layers, got one of 16"):
        controller.check_model("a" * 64, 16)
    with pytest.raises(InputError, match=r"aaaa.*, got cccc"):
        controller.check_model("c" * 64, 12)


def test_untrained_compression_is_a_warning_and_decides_as_the_level_used(
    controller_of: Callable[..., Controller], costs_of: Callable[..., CostTable], caplog: pytest.LogCaptureFixture
) -> None:
    controller = controller_of(compressions=("none", "int8"))
    known = controller.policy(costs_of(), "none")
    with caplog.at_level(logging.WARNING):
        stand_in = controller.policy(costs_of(), "nf4")
    assert "not trained on compression nf4" in caplog.text and "decides as for none" in caplog.text
    assert stand_in.rho == known.rho
    for seed in range(30):
        assert known.best_action(features(seed)) == stand_in.best_action(features(seed, "nf4"))
    with pytest.raises(InputError, match="compression must be one of"):
        controller.policy(costs_of(), "int3")


def test_choice_is_the_argmax_of_tokens_less_rho_times_seconds(
    controller_of: Callable[..., Controller], costs_of: Callable[..., CostTable]
) -> None:
    controller, costs = controller_of(), costs_of(per_context=1e-4)
    policy = controller.policy(costs, "none")
    for seed in range(50):
        vector = features(seed)
        context = np.expm1(vector[FEATURE_NAMES.index("log_context_length")])
        emitted, seconds = controller.step_policy.table(vector[None], np.array([context]), costs, 12)
        values = (emitted - policy.rho * seconds)[0]
        assert values[policy.best_action(vector)] == pytest.approx(values.max(), abs=1e-4)


def test_another_machine_gets_other_choices_from_the_same_files(
    controller_of: Callable[..., Controller], costs_of: Callable[..., CostTable]
) -> None:
    controller = controller_of()
    widths = []
    for costs in (costs_of(0.0, 0.1), costs_of(2.0, 20.0)):
        policy = controller.policy(costs, "none")
        widths.append(np.mean([policy.decide(features(seed)).w_max for seed in range(30)]))
    assert widths[0] > 1.2 * widths[1]


def test_static_action_is_played_without_features(
    controller_of: Callable[..., Controller], costs_of: Callable[..., CostTable]
) -> None:
    action = Action(4, 2, 0.5, "annealed", "token")
    policy = controller_of(static_actions={"none": action}).policy(costs_of(), "none")
    assert not policy.needs_features and not policy.needs_full_signals
    decision = policy.decide(None)
    assert decision.exits() == ((4, 0.5),) and decision.w_max == 2 and decision.combine == "token"
    assert decision.score == AnnealedConfidence(0.25)
    learned = controller_of(static_actions={"none": Action(2, 4, 0.4, "learned")}).policy(costs_of(), "none")
    assert learned.needs_features and learned.decide(features(0)).exits() == ((2, 0.4),)


def test_guard_makes_steps_plain_and_can_be_left_out(
    controller_of: Callable[..., Controller],
    costs_of: Callable[..., CostTable],
    record_of: Callable[..., StepRecord],
) -> None:
    action = Action(4, 2)
    controller = controller_of(static_actions={"none": action})
    bad = record_of(num_accepted=0, num_emitted=1, layer_calls_by_rows={1: 100})
    for has_guard in (True, False):
        policy = controller.policy(costs_of(), "none", guard=has_guard)
        for _ in range(5):
            policy.observe(bad)
        assert policy.decide(None).w_max == (0 if has_guard else 2)
        policy.reset()
        assert policy.decide(None).w_max == 2


def test_decision_takes_microseconds(
    controller_of: Callable[..., Controller], costs_of: Callable[..., CostTable]
) -> None:
    policy, vector = controller_of().policy(costs_of(), "none"), features(0)
    fastest = min(timeit.repeat(lambda: policy.decide(vector), number=50, repeat=20)) / 50
    assert fastest < 300e-6  # tens of microseconds on a quiet machine


def test_sample_that_is_too_large_or_empty_is_refused() -> None:
    for rows in (0, 5001):
        with pytest.raises(ValueError, match="sample features must be 1 to 5000 rows"):
            Sample(np.zeros((rows, len(FEATURE_NAMES)), np.float32), np.ones(rows, np.float32))


def test_mlp_must_be_finite_float32(mlp_of: Callable[..., Mlp]) -> None:
    mlp = mlp_of(np.random.default_rng(0), 3, 2, 1)
    with pytest.raises(ValueError, match="bias1 must be finite"):
        replace(mlp, bias1=np.array([np.inf, 0.0], dtype=np.float32))
