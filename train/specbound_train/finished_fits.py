"""The fits that a run has finished, kept beside its result until the run ends, so that a killed run goes on after them.

A fit takes seconds and its optimiser steps are bounded, so what is kept is a whole fit, as safetensors: no state
inside one, and no pickle, which Lightning's own checkpoints would be. All between the fits is computed again, and is
the same again; a kept fit counts only for exactly the rows and settings that it was fitted with.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.loggers import Logger
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from specbound_controller.mlp import Mlp
from specbound_train.config import UNFINISHED_FOLDER
from specbound_train.loggers import finish
from specbound_train.modules import FitSettings, LossCurve, Rows, fit

_log = logging.getLogger(__name__)


class FinishedFits:
    """The fits of one run by name, and their loss curves."""

    def __init__(self, out: Path, resume: bool = True) -> None:
        """resume: whether to use what an earlier run left in `out`; else it is removed."""
        self._folder = out / UNFINISHED_FOLDER
        if not resume:
            self.remove()
        self.curves: dict[str, LossCurve] = {}
        """Name of the fit -> its losses, in the order of fitting."""
        self.num_resumed = 0
        """Fits that an earlier run had finished."""

    def fit(
        self, name: str, rows: Rows, tune: Rows, settings: FitSettings, make_logger: Callable[[], Logger | None]
    ) -> Mlp:
        """`modules.fit`, or what an earlier run kept of the same fit."""
        key = _key(rows, tune, settings)
        found = self._read(name, key)
        if found is not None:
            self.num_resumed += 1
            mlp, self.curves[name] = found
            return mlp
        curve, logger = LossCurve(), make_logger()
        mlp = fit(rows, tune, settings, logger, [curve])
        finish(logger)
        self._write(name, key, mlp, curve)
        self.curves[name] = curve
        return mlp

    def remove(self) -> None:
        """Removes what was kept, once the result stands."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _read(self, name: str, key: str) -> tuple[Mlp, LossCurve] | None:
        path = self._folder / f"{name}.safetensors"
        if not path.exists():
            return None
        try:
            with safe_open(path, "numpy") as file:
                if (file.metadata() or {}).get("key") != key:
                    _log.warning("%s belongs to other data or settings: this fit is done again", path)
                    return None
                arrays = {each: file.get_tensor(each) for each in file.keys()}  # noqa: SIM118  (not a mapping)
            curve = LossCurve(arrays["train_loss"].tolist(), arrays["tune_loss"].tolist())
            return Mlp.from_arrays(arrays, "mlp"), curve
        except (OSError, SafetensorError, KeyError, ValueError):
            _log.warning("%s is damaged: this fit is done again", path)
            return None

    def _write(self, name: str, key: str, mlp: Mlp, curve: LossCurve) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        losses = {"train_loss": np.array(curve.train_loss), "tune_loss": np.array(curve.tune_loss)}
        arrays = {each: np.ascontiguousarray(array) for each, array in (mlp.arrays("mlp") | losses).items()}
        partial = self._folder / f"{name}.partial"
        partial.write_bytes(save(arrays, {"key": key}))
        os.replace(partial, partial.with_suffix(".safetensors"))


def _key(rows: Rows, tune: Rows, settings: FitSettings) -> str:
    """Equal for fits that would end with the same weights."""
    digest = hashlib.sha256(repr((astuple(settings), torch.__version__)).encode())
    for part in (rows, tune):
        for array in (part.inputs, part.targets, part.is_known):
            digest.update(repr((array.shape, array.dtype.str)).encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
