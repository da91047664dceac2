"""Every logger gets the loss curves of every fit; none of them needs a network."""

import time
from pathlib import Path

import numpy as np
import pytest

from specbound_train.config import TrainConfig
from specbound_train.loggers import finish, make_logger
from specbound_train.modules import FitSettings, Rows, fit
from specbound_train.train import train_controller


def fit_with(kind: str, out: Path) -> None:
    rng = np.random.default_rng(0)
    rows = Rows(rng.random((400, 3), dtype=np.float32), rng.random((400, 2)) < 0.5, np.ones((400, 2), dtype=bool))
    logger = make_logger(kind, str(out), "exit_score_fold0")
    fit(rows, rows, FitSettings(4, 3, 1e-2, 0.0, 0), logger)
    finish(logger)


def holds_losses(run: Path) -> bool:
    content = next(run.glob("*.wandb")).read_bytes()
    return b"tune_loss" in content and b"train_loss" in content


@pytest.mark.usefixtures("short_search")
def test_csv_logger_writes_a_loss_curve_for_every_fit(small_log_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    small = {"epochs": 2, "max_rounds": 1, "hidden_units": 8, "score_hidden_units": 8, "widths": (1, 2, 4)}
    train_controller(TrainConfig(log=str(small_log_dir), out=str(out), logger="csv", report=False, **small))  # type: ignore[arg-type]
    for name in ("exit_score_fold0", "step_policy_1_fold3"):
        header, *lines = next((out / "logs" / name).rglob("metrics.csv")).read_text().splitlines()
        assert "tune_loss" in header and "train_loss" in header and lines


def test_tensorboard_logger_writes_both_losses(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit_with("tensorboard", tmp_path)
    events = EventAccumulator(str(next((tmp_path / "logs" / "exit_score_fold0").iterdir())))
    events.Reload()
    assert len(events.Scalars("tune_loss")) == 3 and events.Scalars("train_loss")


def test_wandb_run_stays_offline_and_holds_the_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # no login of this machine
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    fit_with("wandb", tmp_path)
    (run,) = (tmp_path / "logs" / "wandb").glob("offline-run-*")
    deadline = time.monotonic() + 30.0  # wandb's own process writes the file, and may lag behind
    while not holds_losses(run) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert holds_losses(run)
