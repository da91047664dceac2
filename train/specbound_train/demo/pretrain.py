"""Trains the demonstration model with an early-exit loss (Lightning). Resumable, seeded, loss curve kept as CSV.

Knows the corpus only as token streams.
"""

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM

from specbound_train.demo.tokens import Batch, MixedBatches, validation_batches

logger = logging.getLogger(__name__)

IGNORED = -100
"""A target that no next-token loss counts."""


@dataclass(frozen=True, slots=True)
class PretrainConfig:
    """Shape and training of the demonstration model."""

    num_layers: int = 16
    """Decoder layers."""
    hidden_size: int = 320
    """Width of the residual stream."""
    intermediate_size: int = 512
    """Width of the gated MLP."""
    num_heads: int = 5
    """Query heads; one key-value head."""
    vocab_size: int = 2048
    """Entries of the BPE tokenizer."""
    max_position_embeddings: int = 1024
    """Longest context that the model accepts, tokens."""
    sequence_length: int = 384
    """Training context, tokens."""
    batch_size: int = 12
    """Sequences per step, over all processes."""
    num_tokens: int = 9_000_000
    """Training tokens."""
    comparison_tokens: int = 3_686_400
    """Training tokens of the model of a quarter of the layers that this one is compared with."""
    twin_tokens: int = 1_843_200
    """Training tokens of the twin without the exit loss."""
    decay_share: float = 0.25
    """Share of the steps, at the end, over which the learning rate falls linearly."""
    num_warmup_steps: int = 60
    """Steps of linear warm-up."""
    muon_lr: float = 0.02
    """Learning rate of Muon, for the matrices of the layers."""
    adam_lr: float = 3e-3
    """Learning rate of AdamW, for embeddings and norms."""
    exit_loss_weight: float = 0.5
    """Weight of the mean loss read at the exit layers drawn for a step (LayerSkip). 0 switches it off."""
    exit_layers: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 12)
    """Exit layers from which they are drawn."""
    exits_per_step: int = 1
    """Exit layers drawn per step."""
    imitation_share: float = 0.5
    """Share of an exit's loss that is cross-entropy to the full model's distribution; the rest is to the next token."""
    shares: dict[str, float] = field(default_factory=lambda: {"prose": 0.35, "math": 0.30, "code": 0.35})
    """Share of the sequences by kind of text; `own` is greedy text that the round's first model has written."""
    num_own_prompts: int = 3000
    """Training texts that the model goes on with for the kind `own`."""
    rounds: tuple[dict[str, Any], ...] = ()
    """Further rounds of training, each as the fields that differ; a round begins with the weights of the one before."""
    validate_every: int = 200
    """Steps between two readings of the held-out loss."""
    checkpoint_every: int = 200
    """Steps between two checkpoints."""
    seed: int = 0
    """Seed of weights, batches and exit layers."""

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.sequence_length

    @property
    def num_steps(self) -> int:
        return self.num_tokens // self.tokens_per_step

    def model_config(self) -> LlamaConfig:
        return LlamaConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            num_key_value_heads=1,
            head_dim=self.hidden_size // self.num_heads,
            max_position_embeddings=self.max_position_embeddings,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )


def lr_scale(step: int, config: PretrainConfig) -> float:
    """Warm-up, constant, linear decay: 0..1."""
    decay_steps = max(1, int(config.num_steps * config.decay_share))
    return min(1.0, (step + 1) / config.num_warmup_steps, max(0.0, (config.num_steps - step) / decay_steps))


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Nats per token over the targets that are not `IGNORED`; 0 where all are. logits: (N, V), targets: (N,)."""
    return F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum") / (targets != IGNORED).sum().clamp(1)


def exit_losses(model: LlamaForCausalLM, token_ids: Tensor, exit_layers: tuple[int, ...]) -> dict[int, Tensor]:
    """Cross-entropy in nats per token at some exits and at full depth (key: layers run). token_ids: (B, T + 1)."""
    hidden = model.model(token_ids[:, :-1], use_cache=False, output_hidden_states=True)
    targets = token_ids[:, 1:].flatten()
    losses = {}
    for layer in exit_layers:
        logits = model.lm_head(model.model.norm(hidden.hidden_states[layer]))
        losses[layer] = F.cross_entropy(logits.float().flatten(0, 1), targets)
    logits = model.lm_head(hidden.last_hidden_state)
    losses[model.config.num_hidden_layers] = F.cross_entropy(logits.float().flatten(0, 1), targets)
    return losses


class EarlyExitPretraining(lightning.LightningModule):
    """Next-token loss at full depth plus the mean loss at exit layers drawn per step.

    Part of an exit's loss is cross-entropy to the full model's own (detached) distribution, which is what an accepted
    draft token has to match. Text of the model's own teaches the exits that alone (on-policy distillation).
    """

    def __init__(self, config: PretrainConfig, held_out: dict[str, Tensor]) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.config, self.held_out = config, held_out
        torch.manual_seed(config.seed)
        self.model = LlamaForCausalLM._from_config(config.model_config(), attn_implementation="sdpa")

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        matrices = [p for n, p in self.model.named_parameters() if p.ndim == 2 and "embed" not in n]
        others = [p for n, p in self.model.named_parameters() if p.ndim != 2 or "embed" in n]
        return [
            torch.optim.Muon(matrices, lr=self.config.muon_lr, weight_decay=0.01, momentum=0.95),
            torch.optim.AdamW(others, lr=self.config.adam_lr, betas=(0.9, 0.95), weight_decay=0.01),
        ]

    def training_step(self, batch: Batch, batch_index: int) -> None:
        config, step = self.config, self.trainer.global_step // 2  # two optimisers, two global steps
        loss, exit_loss = self.losses(batch, step)
        self.manual_backward(loss + config.exit_loss_weight * exit_loss)
        scale = lr_scale(step, config)
        for optimizer, lr in zip(self.optimizers(), (config.muon_lr, config.adam_lr), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = lr * scale
            optimizer.step()
            optimizer.zero_grad()
        self.log_dict({"train_loss": loss.detach(), "train_exit_loss": exit_loss.detach()})
        if (step + 1) % config.validate_every == 0 or step + 1 == config.num_steps:
            self.validate(step + 1)

    def losses(self, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        """Full-depth loss and the mean loss of this step's exit layers."""
        config = self.config
        exits = [e for e in config.exit_layers if e < config.num_layers]
        rng = np.random.default_rng((config.seed, step, 1))
        number = min(config.exits_per_step, len(exits))
        drawn = rng.choice(exits, size=number, replace=number == 1)  # one: as round 0 drew it
        captured: list[Tensor] = []
        hooks = [
            self.model.model.layers[int(exit_layer)].register_forward_pre_hook(lambda _, args: captured.append(args[0]))
            for exit_layer in drawn
        ]
        hidden = self.model.model(batch.token_ids[:, :-1], use_cache=False).last_hidden_state
        for hook in hooks:
            hook.remove()
        logits = self.model.lm_head(hidden).float().flatten(0, 1)
        targets = batch.token_ids[:, 1:].masked_fill(batch.is_own[:, None], IGNORED).flatten()
        loss = next_token_loss(logits, targets)
        if not config.exit_loss_weight:
            return loss, torch.zeros(())
        teacher = logits.detach().softmax(-1)
        losses = []
        for state in captured:
            exit_logits = self.model.lm_head(self.model.model.norm(state)).float().flatten(0, 1)
            imitation = F.cross_entropy(exit_logits, teacher)
            share = config.imitation_share
            losses.append(share * imitation + (1 - share) * next_token_loss(exit_logits, targets))
        return loss, torch.stack(losses).mean()

    @torch.no_grad()
    def validate(self, step: int) -> None:
        """Logs the held-out loss of the full model per kind, and of some exits over all kinds."""
        exits = tuple(e for e in self.config.exit_layers if e < self.config.num_layers)
        by_kind = {kind: exit_losses(self.model, batch, exits) for kind, batch in self.held_out.items()}
        values = {f"held_out_{kind}": losses[self.config.num_layers] for kind, losses in by_kind.items()}
        for layer in (*exits, self.config.num_layers):
            values[f"held_out_layer_{layer}"] = torch.stack([losses[layer] for losses in by_kind.values()]).mean()
        values["tokens"] = torch.tensor(float(step * self.config.tokens_per_step))
        self.log_dict(values)


class Pace(Callback):
    """One line on the log every `every` steps: step, loss, tokens per second."""

    def __init__(self, every: int, tokens_per_step: int) -> None:
        self.every, self.tokens_per_step, self.last = every, tokens_per_step, time.perf_counter()

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
        step = trainer.global_step // 2
        if step % self.every == 0 and trainer.is_global_zero:
            now = time.perf_counter()
            pace = self.every * self.tokens_per_step / (now - self.last)
            values = {k: round(float(v), 3) for k, v in trainer.callback_metrics.items() if k != "tokens"}
            logger.warning("step %d, %.0f tokens/s, %s", step, pace, values)
            self.last = now


def pretrain(
    config: PretrainConfig,
    train_streams: dict[str, np.ndarray],
    held_out_streams: dict[str, np.ndarray],
    out: Path,
    num_processes: int = 1,
    precision: Any = "bf16-mixed",
    initial: LlamaForCausalLM | None = None,
) -> LlamaForCausalLM:
    """Trains, or goes on from the last checkpoint in `out`, and returns the model (fp32, on the CPU).

    initial: the model whose weights a round begins with; None begins with random ones.
    """
    held_out = validation_batches(held_out_streams, config.sequence_length, rows_per_kind=8)
    module = EarlyExitPretraining(config, held_out)
    if initial is not None:
        module.model.load_state_dict(initial.state_dict())
    last = out / "last.ckpt"
    first_step = torch.load(last, map_location="cpu", weights_only=True)["global_step"] // 2 if last.exists() else 0
    trainer = lightning.Trainer(
        accelerator="auto",
        devices=num_processes,
        strategy="ddp" if num_processes > 1 else "auto",
        precision=precision,
        max_steps=2 * config.num_steps,
        logger=CSVLogger(out, name="curve", flush_logs_every_n_steps=10),
        log_every_n_steps=min(10, config.validate_every),
        callbacks=[
            ModelCheckpoint(
                out,
                save_last=True,
                save_top_k=0,
                every_n_train_steps=2 * config.checkpoint_every,
                enable_version_counter=False,
            ),
            Pace(50, config.tokens_per_step),
        ],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    batches = MixedBatches(
        train_streams,
        config.shares,
        config.batch_size,
        config.sequence_length,
        config.seed,
        first_step,
        trainer.global_rank,
        trainer.world_size,
    )
    trainer.fit(module, DataLoader(batches, batch_size=None), ckpt_path=last if last.exists() else None)
    return module.model.float().cpu()
