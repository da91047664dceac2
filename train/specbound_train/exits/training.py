"""The training of exits with Lightning: batches, distances, losses, checkpoints, what the curve says.

A step depends on the settings and its own number alone, so that a run which was killed ends with the same weights.
"""

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor

from specbound.decoding.model.exit_modules import ExitModule
from specbound_controller.errors import InputError
from specbound_train.exits.config import TrainExitsConfig
from specbound_train.exits.losses import Target
from specbound_train.exits.measure import Agreement, measure
from specbound_train.exits.students import CHUNK_ROWS, Teacher, student_name
from specbound_train.exits.text import Piece, Text, batches

# B pieces, T tokens of the longest, n chosen positions, D hidden width

WARMUP_SHARE = 0.02
"""Of the positions, over which the learning rate rises; it falls to zero over all others, as a cosine."""
CHECKPOINT = "last.ckpt"
SECONDS_BETWEEN_LINES = 20.0
BETAS = (0.9, 0.95)
MOST_GRADIENT = 1.0
"""Norm that gradients are clipped at."""

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def padded(pieces: Sequence[Piece]) -> tuple[Tensor, Tensor]:
    """Ids and weights of a batch, the end filled with token 0 of no weight. (B, T) each"""
    longest = max(len(piece.ids) for piece in pieces)
    ids, weights = np.zeros((len(pieces), longest), np.int64), np.zeros((len(pieces), longest), np.float32)
    for row, piece in enumerate(pieces):
        ids[row, : len(piece.ids)], weights[row, : len(piece.ids)] = piece.ids, piece.weights
    return torch.from_numpy(ids), torch.from_numpy(weights)


def drawn_distances(places: Tensor, config: TrainExitsConfig, step: int) -> Tensor:
    """How far back the verified state of each position is: every distance as often as drafting meets it.

    places: of the positions in their pieces, from 1 on; a distance never reaches back before the first. (n,) int64
    """
    rng = np.random.default_rng((config.seed, step))
    chances = config.distance_decay ** np.arange(config.max_distance)
    drawn = rng.choice(config.max_distance, len(places), p=chances / chances.sum()) + 1
    return torch.minimum(torch.from_numpy(drawn).to(places.device), places)


class ExitTraining(lightning.LightningModule):
    """Students of one frozen model, all on the same positions."""

    def __init__(
        self,
        config: TrainExitsConfig,
        teacher: Teacher,
        students: torch.nn.ModuleDict,
        held_out: Sequence[Piece],
        num_steps: int,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.config, self.students, self.num_steps = config, students, num_steps
        self._teacher = [teacher]  # in a list, so that its weights are no part of the checkpoint
        self.held_out = held_out
        self.num_positions = 0
        """Trained on so far."""
        self.curve: list[dict[str, Any]] = []
        """What `measure` found, with the positions so far."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        config = self.config
        matrices = [p for p in self.students.parameters() if p.ndim == 2]
        others = [p for p in self.students.parameters() if p.ndim != 2]
        groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=BETAS)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        config, step, teacher = self.config, self.trainer.global_step, self._teacher[0]
        ids, weights = batch
        states = teacher.states(ids)
        rows, places = (weights > 0).nonzero(as_tuple=True)
        distances = drawn_distances(places, config, step)
        total = dict.fromkeys(self.students.keys(), 0.0)
        share = weights[rows, places] / weights.sum()
        for chunk in torch.arange(len(rows), device=rows.device).split(CHUNK_ROWS):
            row, place, distance = rows[chunk], places[chunk], distances[chunk]
            target = Target(teacher.logits(states[0][row, place]), teacher.ids)
            for name, module in self.students.items():
                assert isinstance(module, ExitModule)
                hidden = states[layer_of(name)][row, place].float()
                state = states[0][row, place - distance].float()
                losses = target.loss(teacher.draft_logits(module(hidden, state, distance)), config.loss)
                own_share = share[chunk] if not name.startswith("unweighted") else 1.0 / len(rows)
                loss = (losses * own_share).sum()
                self.manual_backward(loss)
                total[name] += float(loss.detach())
        for module in self.students.values():
            torch.nn.utils.clip_grad_norm_(module.parameters(), MOST_GRADIENT)
        optimizer = self.optimizers()
        assert isinstance(optimizer, lightning.pytorch.core.optimizer.LightningOptimizer)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * lr_scale(step, self.num_steps)
        optimizer.step()
        optimizer.zero_grad()
        before, self.num_positions = self.num_positions, self.num_positions + len(rows)
        self.log_dict({f"loss_{name.replace('@', '_')}": value for name, value in total.items()})
        if before // config.validate_every < self.num_positions // config.validate_every:
            self.read_curve(total)

    def read_curve(self, losses: dict[str, float]) -> list[Agreement]:
        """Measures all students on the held-out text, and keeps what it finds."""
        found = measure(self._teacher[0], self.students, self.held_out, self.config)
        for each in found:
            loss = losses.get(student_name(each.variant, each.exit_layer), float("nan"))
            self.curve.append({"positions": self.num_positions, "train_loss": round(loss, 6), **each.row()})
        near = {f"top1_{e.variant}_{e.exit_layer}": e.top1 for e in found if e.distance == 1 and e.variant != "raw"}
        if self._trainer is not None and self.trainer.logger is not None:
            self.trainer.logger.log_metrics(near, step=self.trainer.global_step)
        return found

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["num_positions"], checkpoint["curve"] = self.num_positions, self.curve

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.num_positions, self.curve = checkpoint["num_positions"], checkpoint["curve"]


def layer_of(name: str) -> int:
    """The exit layer of a student's name."""
    return int(name.partition("@")[2])


def lr_scale(step: int, num_steps: int) -> float:
    """Share of the peak learning rate: a linear rise, then half a cosine."""
    warmup = max(1, round(WARMUP_SHARE * num_steps))
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, num_steps - warmup)
    return 0.5 * (1.0 + float(np.cos(np.pi * min(1.0, done))))


class Checkpoints(lightning.Callback):
    """Writes a checkpoint beside and renames it, every so many steps."""

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
        if trainer.global_step % self.every == 0:
            partial = self.path.with_suffix(".partial")
            try:
                trainer.save_checkpoint(partial)
                os.replace(partial, self.path)
            except (OSError, RuntimeError) as error:  # torch says RuntimeError where the disk is full
                partial.unlink(missing_ok=True)
                reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
                raise InputError(
                    f"{self.path} cannot be written: {reason}; once it can be, run the same command again"
                ) from None


class Progress(lightning.Callback):
    """Says every so often how far the training is, how fast, and how long it will take."""

    def __init__(self, say: Callable[[str], None], num_steps: int) -> None:
        self.say, self.num_steps = say, num_steps
        self.started = self.last = time.perf_counter()
        self.first: tuple[int, int] | None = None

    def on_train_batch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: object) -> None:
        assert isinstance(module, ExitTraining)
        step, now = trainer.global_step, time.perf_counter()
        if self.first is None:
            self.first, self.started = (step, module.num_positions), now
        elif now - self.last >= SECONDS_BETWEEN_LINES or step == self.num_steps:
            seconds = now - self.started
            pace, left = (module.num_positions - self.first[1]) / seconds, self.num_steps - step
            minutes = left * seconds / max(1, step - self.first[0]) / 60
            losses = {name: float(value) for name, value in trainer.callback_metrics.items()}
            shown = ", ".join(f"{name.removeprefix('loss_')} {value:.3f}" for name, value in losses.items())
            self.say(f"step {step}/{self.num_steps}, {pace:.0f} tokens/s, {minutes:.0f} minutes left, loss {shown}")
            self.last = now


class _Stream:
    """Batches from a step on, as many as are left."""

    def __init__(self, text: Text, config: TrainExitsConfig, first_step: int, num_steps: int) -> None:
        self.text, self.config, self.first_step, self.num_steps = text, config, first_step, num_steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        stream = batches(self.text.training, self.config, self.first_step)
        return (padded(next(stream)) for _ in range(self.num_steps - self.first_step))


def steps_of(text: Text, config: TrainExitsConfig) -> int:
    """Optimiser steps until the wanted number of positions is reached."""
    num_positions = 0
    for num_steps, batch in enumerate(batches(text.training, config), start=1):
        num_positions += sum(int((piece.weights > 0).sum()) for piece in batch)
        if num_positions >= config.num_tokens:
            return num_steps
    raise AssertionError("batches never end")


def fit_exits(
    config: TrainExitsConfig,
    teacher: Teacher,
    students: torch.nn.ModuleDict,
    text: Text,
    folder: Path | None,
    logger: Logger | None,
    say: Callable[[str], None],
) -> ExitTraining:
    """Trains the students; goes on from the checkpoint in `folder`, where there is one.

    Raises:
        InputError: a checkpoint cannot be written.
    """
    num_steps = steps_of(text, config)
    module = ExitTraining(config, teacher, students, text.held_out, num_steps)
    last = None if folder is None else folder / CHECKPOINT
    found = last is not None and last.exists()
    first_step = torch.load(last, map_location="cpu", weights_only=True)["global_step"] if found and last else 0
    callbacks: list[lightning.Callback] = [Progress(say, num_steps)]
    if last is not None:
        callbacks.append(Checkpoints(last, config.checkpoint_every))
    on_gpu = teacher.adapter.device.type == "cuda"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", module="torch")
        trainer = lightning.Trainer(
            accelerator="gpu" if on_gpu else "cpu",
            devices=1,
            max_steps=num_steps,
            logger=logger or False,
            callbacks=callbacks,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=10,
        )
        stream = _Stream(text, config, first_step, num_steps)
        trainer.fit(module, stream, ckpt_path=last if found else None, weights_only=True if found else None)
    return module
