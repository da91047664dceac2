"""Tiny real training runs, from a log on disk to a controller that loads and decides."""

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from specbound_controller.controller import CONFIG_FILE, WEIGHTS_FILE, Controller
from specbound_controller.costs import CostTable
from specbound_controller.errors import InputError, MissingExtraError
from specbound_controller.features import FEATURE_NAMES
from specbound_profiling.log.store import open_log
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.replay.replay import replay
from specbound_train.config import TrainConfig
from specbound_train.data import load_levels
from specbound_train.summary import TrainSummary
from specbound_train.train import train_controller

pytestmark = pytest.mark.usefixtures("short_search")
SMALL = {
    "epochs": 2,
    "max_rounds": 1,
    "hidden_units": 8,
    "score_hidden_units": 8,
    "widths": (1, 2, 4),
    "report": False,
}


@pytest.fixture(scope="module")
def trained(log_dir: Path, short_search: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainSummary]:
    out = tmp_path_factory.mktemp("trained") / "controller"
    config = TrainConfig(log=str(log_dir), out=str(out), epochs=8, max_rounds=2, widths=(1, 2, 4))
    return out, train_controller(config)


def test_trained_controller_loads_and_names_its_model(trained: tuple[Path, TrainSummary], log_dir: Path) -> None:
    controller = Controller.load(trained[0])
    manifest = open_log(log_dir).manifest
    controller.check_model(manifest.model_fingerprint, manifest.num_layers)
    assert controller.config.exit_layers == tuple(manifest.exit_layers)
    assert controller.config.prompts_hash == manifest.prompts_hash
    assert controller.config.costs.keys() == {"none"}
    assert 1 <= len(controller.sample.features) <= 5000
    assert sorted(path.name for path in trained[0].iterdir()) == ["README.md", CONFIG_FILE, WEIGHTS_FILE, "report"]


def test_summary_says_what_the_saved_controller_does(trained: tuple[Path, TrainSummary], log_dir: Path) -> None:
    out, summary = trained
    log, controller = open_log(log_dir), Controller.load(out)
    data = load_levels([log], 0.25, 0)[0]
    level = summary.levels[0]
    policy = controller.policy(log.costs["none"], "none")
    result = replay(data.validation, policy, log.costs["none"], 12, "none")
    assert result.tokens_per_second / level.plain_tokens_per_second == pytest.approx(level.controller_speedup)
    assert level.num_prompts == len(data.validation) == 6
    assert controller.config.summary["levels"][0]["controller_speedup"] == level.controller_speedup
    assert level.controller_speedup <= level.oracle_speedup
    json.dumps(summary.to_dict())


def test_controller_is_not_slower_than_the_static_setting_it_was_compared_with(
    trained: tuple[Path, TrainSummary],
) -> None:
    level = trained[1].levels[0]
    assert level.controller_speedup >= level.best_static_speedup - 1e-9
    if level.played_action is None:
        assert level.step_policy_speedup > level.best_static_speedup
    else:
        assert f"({level.played_action.name}) at every step" in str(trained[1])


def test_score_tells_accepted_from_rejected_drafts(trained: tuple[Path, TrainSummary]) -> None:
    for fit in trained[1].exits:
        assert fit.auroc > 0.7 and fit.ece < 0.2


def test_same_seed_gives_the_same_files(small_log_dir: Path, tmp_path: Path) -> None:
    files = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        config = TrainConfig(log=str(small_log_dir), out=str(tmp_path / name), seed=seed, **SMALL)  # type: ignore[arg-type]
        train_controller(config)
        files.append([(tmp_path / name / file).read_bytes() for file in (WEIGHTS_FILE, CONFIG_FILE)])
    assert files[0] == files[1]
    assert files[0][0] != files[2][0]


def test_useless_exits_fall_back_to_a_setting_that_is_not_slower_than_plain(
    tmp_path: Path,
    traces_of: Callable[..., list[PromptTrace]],
    costs_of: Callable[..., CostTable],
    log_of: Callable[..., Path],
) -> None:
    traces = [replace(t, is_accepted=np.zeros_like(t.is_accepted)) for t in traces_of(0, 8, 30)]
    log = log_of(tmp_path / "log", {"none": traces}, costs_of())
    summary = train_controller(TrainConfig(log=str(log), out=str(tmp_path / "out"), **SMALL))  # type: ignore[arg-type]
    level = summary.levels[0]
    assert level.best_static == "plain" and level.is_static
    assert level.controller_speedup == pytest.approx(1.0)
    assert Controller.load(tmp_path / "out").policy(costs_of(), "none").decide(None).w_max == 0
    assert "plays plain decoding at every step" in str(summary)


def test_two_compression_levels_train_one_controller(
    tmp_path: Path,
    traces_of: Callable[..., list[PromptTrace]],
    costs_of: Callable[..., CostTable],
    log_of: Callable[..., Path],
) -> None:
    levels = {level: traces_of(0, 6, 30, compression=level) for level in ("none", "int8")}
    log = log_of(tmp_path / "log", levels, costs_of())
    summary = train_controller(TrainConfig(log=str(log), out=str(tmp_path / "out"), **SMALL))  # type: ignore[arg-type]
    assert [level.compression for level in summary.levels] == ["none", "int8"]
    assert Controller.load(tmp_path / "out").config.compressions == ("none", "int8")


def test_a_greedy_and_a_sampled_log_train_one_controller_that_is_told_which(
    tmp_path: Path,
    traces_of: Callable[..., list[PromptTrace]],
    costs_of: Callable[..., CostTable],
    log_of: Callable[..., Path],
) -> None:
    """Sampled text accepts nearly nothing, and nothing but the temperature says so before the first draft."""
    bad = [replace(t, is_accepted=t.is_accepted & (t.tokens % 4 == 0)[:, None]) for t in traces_of(1, 12, 40)]
    sampling = {"do_sample": True, "temperature": 0.7, "seed": 0}
    logs = (
        str(log_of(tmp_path / "greedy", {"none": traces_of(0, 12, 40)}, costs_of())),
        str(log_of(tmp_path / "sampled", {"none": bad}, costs_of(), sampling=sampling)),
    )
    changes = {**SMALL, "epochs": 10, "report": True}
    summary = train_controller(TrainConfig(log=logs, out=str(tmp_path / "out"), **changes))  # type: ignore[arg-type]
    assert [level.name for level in summary.levels] == ["none", "none at temperature 0.7"]
    assert [level.compression for level in summary.levels] == ["none", "none"]
    assert summary.num_prompts == 12 and summary.num_positions == 2 * 12 * 39
    controller = Controller.load(tmp_path / "out")
    assert controller.config.compressions == ("none",) and controller.config.costs.keys() == {"none"}
    column = FEATURE_NAMES.index("sampling_temperature")
    np.testing.assert_allclose(np.unique(controller.sample.features[:, column]), [0.0, 0.7], rtol=1e-6)
    features = np.repeat(controller.sample.features[:1], 2, axis=0)
    features[:, column] = (0.0, 0.7)
    first_draft = controller.step_policy.curves(features)[:, : len(controller.step_policy.layout.profiles), 1]
    assert (first_draft[0] > first_draft[1]).mean() > 0.8
    assert "none at temperature 0.7" in (tmp_path / "out" / "README.md").read_text()
    report = json.loads((tmp_path / "out" / "report" / "report.json").read_text())
    assert set(report["widths"]) == {"none", "none at temperature 0.7"}


def test_chosen_levels_of_a_log_train_a_controller_of_their_own(
    tmp_path: Path,
    traces_of: Callable[..., list[PromptTrace]],
    costs_of: Callable[..., CostTable],
    log_of: Callable[..., Path],
) -> None:
    levels = {level: traces_of(0, 6, 30, compression=level) for level in ("none", "int8", "nf4")}
    log = log_of(tmp_path / "log", levels, costs_of())
    config = TrainConfig(log=str(log), out=str(tmp_path / "out"), compression=("int8",), **SMALL)  # type: ignore[arg-type]
    assert [level.compression for level in train_controller(config).levels] == ["int8"]
    loaded = Controller.load(tmp_path / "out")
    assert loaded.config.compressions == ("int8",) and loaded.config.costs.keys() == {"int8"}
    with pytest.raises(InputError, match="compression must be one of the log's none, int8, nf4, got 'bf16'"):
        train_controller(replace(config, out=str(tmp_path / "other"), compression=("bf16",)))


def test_without_compression_the_networks_decide_the_same_at_every_level(
    tmp_path: Path,
    traces_of: Callable[..., list[PromptTrace]],
    costs_of: Callable[..., CostTable],
    log_of: Callable[..., Path],
) -> None:
    """One level drafts well and one badly, so that a network that is told the level makes a difference of it."""
    bad = [replace(t, is_accepted=t.is_accepted & (t.tokens % 3 == 0)[:, None]) for t in traces_of(0, 8, 40, "int8")]
    log = log_of(tmp_path / "log", {"none": traces_of(0, 8, 40), "int8": bad}, costs_of())
    curves = {}
    for without in (False, True):
        out = tmp_path / f"without-{without}"
        changes = {**SMALL, "epochs": 10, "without_compression": without}
        train_controller(TrainConfig(log=str(log), out=str(out), **changes))  # type: ignore[arg-type]
        controller = Controller.load(out)
        assert controller.config.without_compression == without
        columns = [FEATURE_NAMES.index(f"compression_{level}") for level in ("none", "int8")]
        features = np.repeat(controller.sample.features[:1], 2, axis=0)
        features[:, columns] = np.eye(2)
        curves[without] = controller.step_policy.curves(features)
        assert (controller.step_mlp.weight1[:, columns] == 0).all() == without
    np.testing.assert_array_equal(curves[True][0], curves[True][1])
    assert np.abs(curves[False][0] - curves[False][1]).max() > 0.01


def test_smallest_log_that_is_accepted_trains(
    tmp_path: Path,
    traces_of: Callable[..., list[PromptTrace]],
    costs_of: Callable[..., CostTable],
    log_of: Callable[..., Path],
) -> None:
    log = log_of(tmp_path / "log", {"none": traces_of(0, 3, 12)}, costs_of())
    train_controller(TrainConfig(log=str(log), out=str(tmp_path / "out"), **SMALL))  # type: ignore[arg-type]
    Controller.load(tmp_path / "out")


def test_out_that_holds_something_is_refused_before_any_work(log_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"out must be empty or new.*notes\.txt"):
        train_controller(TrainConfig(log=str(log_dir), out=str(tmp_path)))
    with pytest.raises(InputError, match="out must be a folder"):
        train_controller(TrainConfig(log=str(log_dir), out=str(tmp_path / "notes.txt")))


def test_folder_that_is_no_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="log must be a folder that specbound profile wrote"):
        train_controller(TrainConfig(log=str(tmp_path), out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_missing_extra_is_named_with_the_command(
    log_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else find(name, *rest))
    with pytest.raises(MissingExtraError, match=r"pip install 'specbound\[train\]'"):
        train_controller(TrainConfig(log=str(log_dir), out=str(tmp_path / "out"), logger="wandb"))


def test_overwrite_replaces_a_controller_and_nothing_else(log_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")  # a model's folder, say
    with pytest.raises(InputError, match="overwrite only replaces a controller"):
        train_controller(TrainConfig(log=str(log_dir), out=str(tmp_path), overwrite=True, **SMALL))
    assert (tmp_path / "config.json").read_text() == "{}"
