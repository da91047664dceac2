"""The tiny perceptrons of a controller as Lightning trains them: binary targets, some of them unknown.

Knows no traces, no policies and no files; arrays in, a numpy `Mlp` out.
"""

import copy
import logging
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from specbound_controller.mlp import Mlp, standardised

MAX_BATCH_ROWS = 1024
"""Rows of one optimiser step: with the bound on the steps, what bounds the time of a fit on a large log."""
MAX_HELD_OUT_ROWS = 8192
"""Held-out rows that say when a fit ends; a random choice of more."""

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Inputs with binary targets."""

    # R rows, I inputs, O outputs
    inputs: np.ndarray
    """(R, I) float32"""
    targets: np.ndarray
    """(R, O) bool"""
    is_known: np.ndarray
    """Which targets count. (R, O) bool"""

    def subset(self, chosen: np.ndarray) -> "Rows":
        """Some of the rows. chosen: (R,) bool, or indices"""
        return Rows(self.inputs[chosen], self.targets[chosen], self.is_known[chosen])


@dataclass(frozen=True, slots=True)
class FitSettings:
    """How one perceptron is fitted."""

    hidden_units: int
    epochs: int
    learning_rate: float
    weight_decay: float
    seed: int
    max_steps: int = 1000
    """Most optimiser steps; large logs need fewer passes."""
    patience: int = 8
    """Epochs without a better held-out loss after which a fit ends."""


class Perceptron(lightning.LightningModule):
    """One hidden layer of rectified units on standardised inputs. Begins as the constant that fits best."""

    def __init__(self, mean: Tensor, scale: Tensor, base_logits: Tensor, settings: FitSettings, num_steps: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.scale: Tensor
        self.settings, self.num_steps = settings, num_steps
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.hidden = nn.Linear(len(mean), settings.hidden_units)
        self.output = nn.Linear(settings.hidden_units, len(base_logits))
        nn.init.zeros_(self.output.weight)
        with torch.no_grad():
            self.output.bias.copy_(base_logits)
        self.tune_loss = math.inf

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits. (B, I) -> (B, O)"""
        hidden = torch.relu(self.hidden((inputs - self.mean) * self.scale))
        logits: Tensor = self.output(hidden)
        return logits

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean negative log-likelihood of the known targets, nats. batch: inputs, and +1, -1 or 0 (unknown)."""
        inputs, signs = batch
        num_known = torch.count_nonzero(signs)
        # An unknown target gives log(1/2) whatever the logit, and no gradient: half the time of a masked loss.
        log_likelihood = nn.functional.logsigmoid(signs * self(inputs)).sum()
        of_unknown = math.log(0.5) * (signs.numel() - num_known)
        return (of_unknown - log_likelihood) / num_known.clamp(min=1)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        loss = self.loss(batch)
        self.tune_loss = float(loss)
        self.log("tune_loss", loss)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        settings = self.settings
        weights = [parameter for parameter in self.parameters() if parameter.ndim == 2]
        biases = [parameter for parameter in self.parameters() if parameter.ndim == 1]  # the constant fit: no decay
        groups = [{"params": weights, "weight_decay": settings.weight_decay}, {"params": biases, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate)
        total_steps = self.num_steps + (self.num_steps == 10)  # of 10 the rise takes one, and torch divides by zero
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, settings.learning_rate, total_steps=total_steps, pct_start=0.1
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def to_numpy(self) -> Mlp:
        """The same function in numpy, the scaling folded into the first layer."""
        arrays = (self.mean, self.scale, self.hidden.weight, self.hidden.bias, self.output.weight, self.output.bias)
        return standardised(*(array.detach().double().numpy() for array in arrays))


class _KeepBest(lightning.Callback):
    """Keeps the weights with the least held-out loss, those before the first step included.

    In memory: Lightning's ModelCheckpoint would write pickles, and a fit is too short to be worth a file.
    """

    def __init__(self) -> None:
        self._best_loss = math.inf
        self._best: dict[str, Tensor] = {}

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        assert isinstance(module, Perceptron)
        if module.tune_loss < self._best_loss:
            self._best_loss = module.tune_loss
            self._best = copy.deepcopy(module.state_dict())

    def restore(self, module: Perceptron) -> None:
        if self._best:
            module.load_state_dict(self._best)


class LossCurve(lightning.Callback):
    """The losses of one fit, epoch by epoch; entry 0 is the constant fit, whose training loss is not known."""

    def __init__(self, train_loss: Sequence[float] = (), tune_loss: Sequence[float] = ()) -> None:
        self.train_loss, self.tune_loss = list(train_loss), list(tune_loss)
        self._batch_losses: list[float] = []

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        self._batch_losses.append(float(outputs["loss"]))

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        assert isinstance(module, Perceptron)
        losses, self._batch_losses = self._batch_losses, []
        self.train_loss.append(float(np.mean(losses)) if losses else math.nan)
        self.tune_loss.append(module.tune_loss)


class _Batches:
    """Shuffled batches from memory, the same for the same seed."""

    def __init__(self, rows: Rows, batch_rows: int, seed: int) -> None:
        signs = np.where(rows.targets, np.int8(1), np.int8(-1)) * rows.is_known
        self._inputs, self._signs = (torch.from_numpy(np.ascontiguousarray(array)) for array in (rows.inputs, signs))
        self._batch_rows, self._rng = batch_rows, np.random.default_rng(seed)

    def __len__(self) -> int:
        return -(-len(self._inputs) // self._batch_rows)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.from_numpy(self._rng.permutation(len(self._inputs)))
        for chosen in order.split(self._batch_rows):
            yield self._inputs[chosen], self._signs[chosen]


class RowsModule(lightning.LightningDataModule):
    """The rows of one fit: shuffled batches to fit on, and one batch of held-out rows that says when to stop."""

    def __init__(self, rows: Rows, tune: Rows, seed: int) -> None:
        super().__init__()
        self._batches = _Batches(rows, min(MAX_BATCH_ROWS, max(32, len(rows.inputs) // 16)), seed)
        if len(tune.inputs) > MAX_HELD_OUT_ROWS:
            chosen = np.random.default_rng(seed).choice(len(tune.inputs), MAX_HELD_OUT_ROWS, replace=False)
            tune = tune.subset(np.sort(chosen))
        self._held_out = _Batches(tune, max(1, len(tune.inputs)), 0)

    @property
    def batches_per_epoch(self) -> int:
        return len(self._batches)

    def train_dataloader(self) -> Iterable[tuple[Tensor, Tensor]]:
        return self._batches

    def val_dataloader(self) -> Iterable[tuple[Tensor, Tensor]]:
        return self._held_out


def fit(
    rows: Rows, tune: Rows, settings: FitSettings, logger: Logger | None, callbacks: Sequence[lightning.Callback] = ()
) -> Mlp:
    """Fits a perceptron on `rows` and keeps the weights that are best on `tune`; the constant fit is a candidate."""
    data = RowsModule(rows, tune, settings.seed)
    epochs = min(settings.epochs, math.ceil(settings.max_steps / data.batches_per_epoch))
    scaler = StandardScaler().fit(rows.inputs.astype(np.float64))
    is_constant = scaler.var_ < 1e-12
    scale = np.where(is_constant, 0.0, 1.0 / scaler.scale_)
    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(settings.seed)
        module = Perceptron(
            torch.from_numpy(scaler.mean_).float(),
            torch.from_numpy(scale).float(),
            torch.from_numpy(_base_logits(rows)).float(),
            settings,
            epochs * data.batches_per_epoch,
        )
        keeper = _KeepBest()
        trainer = lightning.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=epochs,
            logger=logger or False,
            callbacks=[keeper, EarlyStopping("tune_loss", min_delta=0.0, patience=settings.patience), *callbacks],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=10,
            num_sanity_val_steps=-1,  # judges the constant fit before the first step
        )
        trainer.fit(module, datamodule=data)
    keeper.restore(module)
    return module.to_numpy()


def fit_folds(
    rows: Rows, folds: np.ndarray, settings: FitSettings, fit_one: Callable[[int, Rows, Rows, FitSettings], Mlp]
) -> tuple[Mlp, ...]:
    """For each fold, a perceptron that was fitted on the others, with its weights kept by the loss on that fold.

    Args:
        folds: Fold of each row, 0 to K - 1. (R,)
        settings: Of all K together: each gets its share of the hidden units.
        fit_one: Fits one of them; takes the fold, the rows to fit on, those to hold out, and its settings.
    """
    num_folds = int(folds.max()) + 1
    share = replace(settings, hidden_units=max(1, settings.hidden_units // num_folds))
    return tuple(
        fit_one(
            fold,
            rows.subset(folds != fold),
            rows.subset(folds == fold),
            replace(share, seed=settings.seed * num_folds + fold),
        )
        for fold in range(num_folds)
    )


def average(mlps: Sequence[Mlp]) -> Mlp:
    """One perceptron whose logits are the mean of all: their hidden units side by side."""
    share = np.float32(1.0 / len(mlps))
    return Mlp(
        np.concatenate([mlp.weight1 for mlp in mlps]),
        np.concatenate([mlp.bias1 for mlp in mlps]),
        np.concatenate([mlp.weight2 * share for mlp in mlps], axis=1),
        np.stack([mlp.bias2 * share for mlp in mlps]).sum(axis=0),
    )


def _base_logits(rows: Rows) -> np.ndarray:
    """Log-odds of each target alone, drawn to zero by one row each way. (O,)"""
    num_known = rows.is_known.sum(axis=0)
    num_true = (rows.targets & rows.is_known).sum(axis=0)
    odds: np.ndarray = np.log((num_true + 1.0) / (num_known - num_true + 1.0))
    return odds


class _quiet(warnings.catch_warnings):
    """Silences what Lightning says of its own loaders and loggers; nothing of it concerns a fit in memory."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", module="torch")
