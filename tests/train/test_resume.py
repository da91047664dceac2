"""Runs that are killed go on, and end like those that were not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from specbound_controller.controller import CONFIG_FILE, WEIGHTS_FILE
from specbound_controller.errors import InputError
from specbound_train import finished_fits
from specbound_train.config import TrainConfig
from specbound_train.finished_fits import FinishedFits
from specbound_train.modules import FitSettings, Rows, fit
from specbound_train.train import train_controller

pytestmark = pytest.mark.usefixtures("short_search")
FILES = (WEIGHTS_FILE, CONFIG_FILE, "README.md", "report/loss_curves.csv", "report/report.json")


def config_of(log: Path, out: Path, **changes: Any) -> TrainConfig:
    settings = {"epochs": 2, "max_rounds": 2, "hidden_units": 8, "score_hidden_units": 8, "widths": (1, 2)}
    return TrainConfig(log=str(log), out=str(out), **{**settings, **changes})


class Killed(BaseException):
    """What no handler of ours catches, as little as a signal."""


@pytest.fixture
def kill_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], list[int]]:
    """Lets so many fits through; returns where they are counted."""

    def set_up(num_fits: int | None) -> list[int]:
        count = [0]

        def counted(*arguments: Any) -> Any:
            if count[0] == num_fits:
                raise Killed
            count[0] += 1
            return fit(*arguments)

        monkeypatch.setattr(finished_fits, "fit", counted)
        return count

    return set_up


@pytest.fixture(scope="module")
def undisturbed(small_log_dir: Path, short_search: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "controller"
    train_controller(config_of(small_log_dir, out))
    return out


@pytest.mark.parametrize("num_fits", [3, 9])
def test_killed_run_goes_on_and_ends_with_the_same_files(
    small_log_dir: Path, tmp_path: Path, undisturbed: Path, kill_after: Callable[..., list[int]], num_fits: int
) -> None:
    out = tmp_path / "controller"
    kill_after(num_fits)
    with pytest.raises(Killed):
        train_controller(config_of(small_log_dir, out))
    assert not (out / WEIGHTS_FILE).exists()
    assert len(list((out / "unfinished").glob("*.safetensors"))) == num_fits
    count = kill_after(None)
    train_controller(config_of(small_log_dir, out))
    assert count[0] == 12 - num_fits  # 4 folds of the exit score, 4 of the step policy in each of 2 rounds
    for name in FILES:
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes(), name
    assert not (out / "unfinished").exists()


def test_fits_of_other_settings_or_damaged_ones_are_done_again(
    small_log_dir: Path, tmp_path: Path, undisturbed: Path, kill_after: Callable[..., list[int]]
) -> None:
    out = tmp_path / "controller"
    kill_after(5)
    with pytest.raises(Killed):
        train_controller(config_of(small_log_dir, out, report=False, learning_rate=1e-2))
    kill_after(5)
    with pytest.raises(Killed):
        train_controller(config_of(small_log_dir, out, report=False))
    kept = sorted((out / "unfinished").glob("*.safetensors"))
    kept[0].write_bytes(kept[0].read_bytes()[:100])
    kept[1].write_bytes(b"")
    count = kill_after(None)
    train_controller(config_of(small_log_dir, out, report=False))
    assert count[0] == 12 - 3
    assert (out / WEIGHTS_FILE).read_bytes() == (undisturbed / WEIGHTS_FILE).read_bytes()


def test_without_resume_all_is_done_again(
    small_log_dir: Path, tmp_path: Path, kill_after: Callable[..., list[int]]
) -> None:
    kill_after(5)
    with pytest.raises(Killed):
        train_controller(config_of(small_log_dir, tmp_path / "out"))
    count = kill_after(None)
    train_controller(config_of(small_log_dir, tmp_path / "out", resume=False, report=False))
    assert count[0] == 12


def test_a_finished_controller_is_not_gone_on_with(small_log_dir: Path, undisturbed: Path) -> None:
    with pytest.raises(InputError, match="out must be empty or new"):
        train_controller(config_of(small_log_dir, undisturbed))


def test_no_pickle_is_written(undisturbed: Path) -> None:
    names = {path.name for path in undisturbed.rglob("*") if path.is_file()}
    assert names == {
        *(WEIGHTS_FILE, CONFIG_FILE, "README.md", "report.json"),
        *("loss_curves.csv", "loss_curves.png", "importance.png", "widths.png"),
    }


def test_kept_fit_is_the_one_that_was_fitted(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = Rows(rng.random((60, 3), dtype=np.float32), rng.random((60, 2)) < 0.5, np.ones((60, 2), dtype=bool))
    settings = FitSettings(4, 2, 1e-2, 0.0, 0)
    first, second = FinishedFits(tmp_path), FinishedFits(tmp_path)
    mlps = [each.fit("a", rows, rows, settings, lambda: None) for each in (first, second)]
    for name, array in mlps[0].arrays("").items():
        np.testing.assert_array_equal(array, mlps[1].arrays("")[name])
    assert first.num_resumed == 0 and second.num_resumed == 1
    assert first.curves["a"].tune_loss == second.curves["a"].tune_loss and len(first.curves["a"].tune_loss) == 3
    np.testing.assert_array_equal(first.curves["a"].train_loss, second.curves["a"].train_loss)
