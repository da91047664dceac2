"""`train_controller`: checks what can be checked before any work, trains, saves. Imports no torch by itself."""

import importlib.util
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from specbound_controller.errors import InputError, MissingExtraError
from specbound_train.config import TrainConfig

if TYPE_CHECKING:
    from specbound_train.summary import TrainSummary


def train_controller(config: TrainConfig) -> "TrainSummary":
    """Trains a controller on the log and saves it; returns what a reader should know of it.

    Raises:
        InputError: no log, not enough data, or an output folder that must not be written to.
        MissingExtraError: Lightning, scikit-learn or the logger is not installed.
    """
    started = time.perf_counter()
    _check_extras(config)
    _check_out(config)
    from specbound_profiling.log import open_log
    from specbound_train.fitting import fit_controller

    controller, summary = fit_controller(config, open_log(config.log))
    controller.save(config.out)
    return replace(summary, seconds=time.perf_counter() - started)


def _check_extras(config: TrainConfig) -> None:
    wanted = ["lightning", "sklearn", "pyarrow"]
    if config.logger in ("tensorboard", "wandb"):
        wanted.append(config.logger)
    for name in wanted:
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(f"training a controller with logger {config.logger} ({name})", "train")


def _check_out(config: TrainConfig) -> None:
    folder = Path(config.out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"out must be a folder, got the file {folder}")
    if config.overwrite or not folder.exists():
        return
    found = sorted(path.name for path in folder.iterdir())
    if found:
        raise InputError(
            f"out must be empty or new, got {folder} with {', '.join(found[:3])}; choose another or pass --overwrite"
        )
