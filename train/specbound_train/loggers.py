"""Loss curves: nowhere, CSV, TensorBoard or wandb."""

import netrc
import os
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from specbound_controller.errors import MissingExtraError
from specbound_train.config import LOGS_FOLDER


def make_logger(kind: str, out: str, name: str) -> Logger | None:
    """The logger of one fit, below `out`/logs; None for `none`. Raises MissingExtraError."""
    folder = Path(out) / LOGS_FOLDER
    if kind == "none":
        return None
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "csv":
        return CSVLogger(str(folder), name=name)
    try:
        if kind == "tensorboard":
            return TensorBoardLogger(str(folder), name=name)
        return _wandb_logger(folder, name)
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"logger {kind}", "train") from error


def finish(logger: Logger | None) -> None:
    """Ends the run that a fit logged to."""
    if logger is not None:
        logger.finalize("success")
        if type(logger).__name__ == "WandbLogger":
            logger.experiment.finish()  # type: ignore[attr-defined]


def _wandb_logger(folder: Path, name: str) -> Logger:
    import wandb  # noqa: F401  (tells a missing package from a broken logger)
    from lightning.pytorch.loggers import WandbLogger

    os.environ.setdefault("WANDB_SILENT", "true")
    mode = os.environ.get("WANDB_MODE") or ("online" if _is_logged_in() else "offline")
    return WandbLogger(name=name, save_dir=str(folder), project="specbound", mode=mode)


def _is_logged_in() -> bool:
    """Whether wandb would find a key without asking: its environment variable, or an entry that its login wrote."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
