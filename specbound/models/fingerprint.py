"""Fingerprints: which model a controller belongs to, over all compressions of that model but no fine-tune of it."""

import hashlib
import json

import torch
from transformers import PreTrainedModel

NUM_SIGNS = 4096
ARCHITECTURE_FIELDS = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)
"""Config fields that name the shape. Others depend on the load (dtype, path) or on transformers' version."""


def model_fingerprint(model: PreTrainedModel) -> str:
    """Sha256 of the config's architecture fields and of the signs of 4,096 fixed entries of the input embedding,
    which survive casting and quantisation. 64 hex digits."""
    config = {name: getattr(model.config, name, None) for name in ARCHITECTURE_FIELDS}
    weight = model.get_input_embeddings().weight.detach()
    flat = weight.reshape(-1)
    indices = torch.linspace(0, flat.numel() - 1, min(NUM_SIGNS, flat.numel()), dtype=torch.float64).long()
    signs = (flat[indices.to(flat.device)] > 0).to(torch.uint8).cpu().numpy().tobytes()
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode() + signs).hexdigest()
