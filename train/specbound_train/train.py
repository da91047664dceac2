"""`train_controller`: checks what can be checked before any work, trains, saves. Imports no torch by itself."""

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from specbound_controller.card import CARD_FILE
from specbound_controller.controller import WEIGHTS_FILE
from specbound_controller.errors import InputError
from specbound_train.config import LOGS_FOLDER, REPORT_FOLDER, UNFINISHED_FOLDER, TrainConfig
from specbound_train.extras import require_extras

if TYPE_CHECKING:
    from specbound_train.summary import TrainSummary


def train_controller(config: TrainConfig) -> "TrainSummary":
    """Trains a controller on the logs and saves it; returns what a reader should know of it.

    A run that is killed leaves the fits that it has finished, and the same call goes on after them; it ends with the
    same controller.

    Raises:
        InputError: no log, logs that do not fit together, not enough data, or an output folder that must not be
            written to.
        MissingExtraError: Lightning, scikit-learn or the logger is not installed.
    """
    started = time.perf_counter()
    require_extras("training a controller", ("lightning", "sklearn", "pyarrow"), config.logger)
    folder = _check_out(config)
    from specbound_controller.card import CARD_FILE, controller_card
    from specbound_profiling.log.store import open_log
    from specbound_train.finished_fits import FinishedFits
    from specbound_train.fitting import fit_controller
    from specbound_train.report.write import write_report

    logs = [open_log(path) for path in config.logs]
    _make_folder(folder)
    config = replace(config, out=str(folder))
    fits = FinishedFits(folder, config.resume)
    fitted = fit_controller(config, logs, fits)
    if config.report:
        write_report(fitted, config.seed, folder / REPORT_FOLDER)
    (folder / CARD_FILE).write_text(controller_card(fitted.controller.config), encoding="utf-8")
    fitted.controller.save(folder)
    fits.remove()
    return replace(fitted.summary, seconds=time.perf_counter() - started)


def _check_out(config: TrainConfig) -> Path:
    """The folder to write to, which must hold nothing that would be lost."""
    folder = Path(config.out).expanduser()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"out must be a folder, got the file {folder}")
    leavings = {LOGS_FOLDER, UNFINISHED_FOLDER}  # of a run that was killed
    if folder.exists() and (folder / UNFINISHED_FOLDER).is_dir() and not (folder / WEIGHTS_FILE).exists():
        leavings |= {REPORT_FOLDER, CARD_FILE}
    found = sorted(p.name for p in folder.iterdir() if p.name not in leavings) if folder.exists() else []
    is_controller = (folder / WEIGHTS_FILE).exists()
    if found and config.overwrite and not is_controller:
        raise InputError(f"overwrite only replaces a controller, got {folder} with {', '.join(found[:3])}")
    if found and not config.overwrite:
        raise InputError(
            f"out must be empty or new, got {folder} with {', '.join(found[:3])}; choose another or pass --overwrite"
        )
    return folder


def _make_folder(folder: Path) -> None:
    """Before the work, so that a folder that cannot be written to does not cost it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out {folder} cannot be written to: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise InputError(f"out {folder} cannot be written to")
