"""Trained exits with random weights, for tests of what must not depend on what they say."""

import numpy as np
import torch
from transformers import PreTrainedModel

from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.model.exit_modules import ExitModule, ExitShape
from specbound.exits.trained import ExitsConfig, TrainedExits
from specbound.models.fingerprint import model_fingerprint


def random_exits(
    model: PreTrainedModel,
    exit_layers: tuple[int, ...] = (1, 2),
    seed: int = 0,
    kind: str = "mlp",
    reads_state: bool = True,
    num_tokens: int | None = None,
) -> TrainedExits:
    """Near the raw exits, so that drafts are accepted, but not the same. num_tokens: drafted ones; None is all."""
    adapter = ModelAdapter(model)
    size, vocab_size = adapter.config.hidden_size, adapter.vocab_size
    shape = ExitShape(size, kind, num_blocks=2, width=24, rank=4, reads_state=reads_state, max_distance=3)
    generator = torch.Generator().manual_seed(seed)
    modules = {}
    for layer in exit_layers:
        modules[layer] = ExitModule(shape)
        for parameter in modules[layer].parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    config = ExitsConfig(model_fingerprint(model), adapter.num_layers, vocab_size, exit_layers, shape)
    count = vocab_size if num_tokens is None else num_tokens
    ids = np.sort(np.random.default_rng(seed).choice(vocab_size, count, replace=False)).astype(np.int64)
    return TrainedExits(config, modules, ids)
