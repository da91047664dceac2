"""Fingerprints: which model a controller belongs to, over all compressions of that model but no fine-tune of it.

What makes two of them one model is decided in `specbound_controller.fingerprint`.
"""

import hashlib
import json

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from specbound_controller.fingerprint import NUM_BITS, NUM_SIGNS, Fingerprint

NUM_EXACT_SIGNS = 4096
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
    """Text for `specbound_controller.fingerprint`: shape, signs of fixed entries of the input embedding, which survive
    casting and, nearly all, quantisation, and last bits in bfloat16 of fixed entries of the norms, which are left alone
    by both."""
    fields = {name: getattr(model.config, name, None) for name in ARCHITECTURE_FIELDS}
    shape = json.dumps(fields, sort_keys=True, default=str).encode()
    flat = model.get_input_embeddings().weight.detach().reshape(-1)
    exact_signs = (_picked(flat, NUM_EXACT_SIGNS) > 0).to(torch.uint8).cpu().numpy().tobytes()
    signs = (_picked(flat, NUM_SIGNS) > 0).cpu().numpy()
    return str(
        Fingerprint(
            exact=hashlib.sha256(shape + exact_signs).hexdigest(),
            shape=hashlib.sha256(shape).hexdigest()[:16],
            signs=np.packbits(signs).tobytes(),
            bits=np.packbits(_norm_bits(model)).tobytes(),
        )
    )


def _norm_bits(model: PreTrainedModel) -> np.ndarray:
    """Last bits of the norms' weights in bfloat16: all weights of one dimension are of norms. (`NUM_BITS`,) or fewer"""
    norms = [p.detach().reshape(-1) for name, p in model.named_parameters() if p.ndim == 1 and name.endswith("weight")]
    if not norms:
        return np.zeros(0, dtype=np.uint8)
    device = norms[0].device
    picked = _picked(torch.cat([norm.to(device, torch.float32) for norm in norms]), NUM_BITS)
    bits: np.ndarray = (picked.to(torch.bfloat16).view(torch.int16) & 1).cpu().numpy().astype(np.uint8)
    return bits


def _picked(flat: Tensor, count: int) -> Tensor:
    """So many entries, evenly spread. (N,) -> (count,) or (N,)"""
    indices = torch.linspace(0, flat.numel() - 1, min(count, flat.numel()), dtype=torch.float64).long()
    return flat[indices.to(flat.device)]
