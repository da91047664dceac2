"""Loss curves: nowhere, CSV, TensorBoard or wandb."""

import os
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from specbound_controller.errors import MissingExtraError


def make_logger(kind: str, out: str, name: str) -> Logger | None:
    """The logger of one fit, below `out`/logs; None for `none`. Raises MissingExtraError."""
    folder = Path(out) / "logs"
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
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    os.environ.setdefault("WANDB_SILENT", "true")
    is_online = os.environ.get("WANDB_MODE", "online") == "online" and wandb.api.api_key is not None
    return WandbLogger(name=name, save_dir=str(folder), project="specbound", offline=not is_online)
