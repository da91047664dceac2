"""The report of a training run: what its figures mean, computed by hand where that can be."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from specbound_controller.compression import COMPRESSIONS
from specbound_controller.costs import CostTable
from specbound_controller.features import FEATURE_NAMES
from specbound_controller.mlp import Mlp
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.replay.trace_batch import TraceBatch
from specbound_train.config import TrainConfig
from specbound_train.report import write as training_report
from specbound_train.report.importance import GROUPED_NAMES, accepted_shares, grouped, importance, ungrouped
from specbound_train.rows import CurveRows, StepRows
from specbound_train.train import train_controller

pytestmark = pytest.mark.usefixtures("short_search")


@pytest.fixture(scope="module")
def folder(log_dir: Path, short_search: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "out"
    config = TrainConfig(log=str(log_dir), out=str(out), full_signals=True, epochs=4, max_rounds=1, widths=(1, 2, 4))
    train_controller(config)
    return out / "report"


def test_pictures_are_pngs_and_every_fit_has_its_curve(folder: Path) -> None:
    for name in ("loss_curves", "importance", "widths"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((folder / "loss_curves.csv").read_text().splitlines()))
    fits = {row["fit"] for row in rows}
    assert fits == {f"{name}_fold{fold}" for name in ("exit_score", "step_policy_1") for fold in range(4)}
    of_one = [row for row in rows if row["fit"] == "exit_score_fold0"]
    assert [int(row["epoch"]) for row in of_one] == list(range(len(of_one))) and len(of_one) <= 5
    assert of_one[0]["train_loss"] == "" and float(of_one[-1]["tune_loss"]) < float(of_one[0]["tune_loss"])


def test_chosen_widths_are_those_of_a_step_policy_on_the_validation_prompts(folder: Path) -> None:
    widths = json.loads((folder / "report.json").read_text())["widths"]
    assert widths.keys() == {"none"} and widths["none"].keys() == {"0", "1", "2", "4"}
    assert 6 * 59 / 5 <= sum(widths["none"].values()) <= 6 * 59  # 6 prompts of 59 tokens, 1 to 5 of them a step


def test_features_that_are_known_to_matter_come_first(folder: Path) -> None:
    """The synthetic traces' difficulty moves slowly, and the full model's signals show it."""
    values = json.loads((folder / "report.json").read_text())["importance"]
    assert values["names"] == list(GROUPED_NAMES) and values["names"][-1] == "compression"
    assert sum(values["forest"]) == pytest.approx(1.0) and values["forest_r2"] > 0.1
    for kind in ("forest", "permutation"):
        assert values[kind][-1] == 0.0  # one level only: it cannot matter
        best = [values["names"][i] for i in np.argsort(values[kind])[::-1][:6]]
        assert any(name.startswith("full_") for name in best), best


def test_permutation_importance_is_the_growth_of_the_loss(traces_of: Callable[..., list[PromptTrace]]) -> None:
    """A network that looks at the level alone: no other feature is worth anything, and the level is worth much."""
    rng, num_rows = np.random.default_rng(0), 2000
    features = np.zeros((num_rows, len(FEATURE_NAMES)), dtype=np.float32)
    features[:, :3] = rng.random((num_rows, 3))
    level = rng.integers(2, size=num_rows)
    columns = FEATURE_NAMES.index("compression_none") + np.arange(2)
    features[np.arange(num_rows), columns[level]] = 1.0
    weight1 = np.zeros((1, len(FEATURE_NAMES)), dtype=np.float32)
    weight1[0, columns[1]] = 1.0
    mlp = Mlp(weight1, *(np.array(a, dtype=np.float32) for a in ([0.0], [[4.0]], [-2.0])))
    is_reached = (rng.random(num_rows) < 1 / (1 + np.exp(-(4.0 * level - 2.0))))[:, None]
    rows = CurveRows(features, is_reached, np.ones_like(is_reached), np.zeros(num_rows, dtype=np.int64))
    batch = TraceBatch(traces_of(0, 4, 40))
    steps = StepRows(batch, np.arange(1, 40), features[:39], np.zeros(39, dtype=np.int64))
    found = importance([steps], [steps], rows, mlp, 0)
    assert all(value == 0.0 for value in found.permutation[:-1])
    p = 1 / (1 + np.exp(-2.0))  # a shuffled level is wrong for half the rows, which costs 2 (p - (1 - p)) nats each
    assert found.permutation[-1] == pytest.approx(0.5 * 4.0 * (p - 0.5), abs=0.06)


def test_level_is_one_feature_there_and_back() -> None:
    features = np.zeros((len(COMPRESSIONS), len(FEATURE_NAMES)), dtype=np.float32)
    features[:, -len(COMPRESSIONS) :] = np.eye(len(COMPRESSIONS))
    np.testing.assert_array_equal(grouped(features)[:, -1], np.arange(len(COMPRESSIONS)))
    np.testing.assert_array_equal(ungrouped(grouped(features)), features)


def test_accepted_share_stops_at_the_first_wrong_draft(traces_of: Callable[..., list[PromptTrace]]) -> None:
    trace = traces_of(0, 1, 6)[0]
    accepted = np.array([[1, 1], [1, 0], [1, 1], [0, 1], [1, 1], [1, 1]], dtype=bool)
    batch = TraceBatch([replace(trace, is_accepted=accepted)])
    steps = StepRows(batch, np.array([1, 2, 4]), np.zeros((3, len(FEATURE_NAMES)), np.float32), np.zeros(3, np.int64))
    shares, is_known = accepted_shares(steps, 3)
    np.testing.assert_allclose(shares[:2], [(2 + 0) / 6, (1 + 3) / 6])
    assert is_known.tolist() == [True, True, False]


def test_without_matplotlib_the_figures_are_still_written(
    small_log_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    find = training_report.importlib.util.find_spec
    monkeypatch.setattr(
        training_report.importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "matplotlib" else find(name, *rest),
    )
    config = TrainConfig(log=str(small_log_dir), out=str(tmp_path / "out"), epochs=1, max_rounds=1, widths=(1, 2))
    train_controller(config)
    assert sorted(path.name for path in (tmp_path / "out" / "report").iterdir()) == ["loss_curves.csv", "report.json"]
    assert "matplotlib is not installed" in caplog.text


def test_levels_get_a_histogram_each(
    tmp_path: Path,
    traces_of: Callable[..., list[PromptTrace]],
    costs_of: Callable[..., CostTable],
    log_of: Callable[..., Path],
) -> None:
    """Drafts never come true at int8: there the step policy drafts nothing."""
    hopeless = [replace(t, is_accepted=np.zeros_like(t.is_accepted)) for t in traces_of(0, 12, 60, "int8")]
    log = log_of(tmp_path / "log", {"none": traces_of(0, 12, 60), "int8": hopeless}, costs_of())
    train_controller(TrainConfig(log=str(log), out=str(tmp_path / "out"), epochs=10, max_rounds=1, widths=(1, 2)))
    widths = json.loads((tmp_path / "out" / "report" / "report.json").read_text())["widths"]
    assert widths["int8"]["0"] > 0.8 * sum(widths["int8"].values())
    assert widths["none"]["0"] < 0.8 * sum(widths["none"].values())
