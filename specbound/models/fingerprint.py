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
    norms = _norms(model)
    in_bf16 = norms.to(torch.bfloat16)
    return str(
        Fingerprint(
            exact=hashlib.sha256(shape + exact_signs).hexdigest(),
            shape=hashlib.sha256(shape).hexdigest()[:16],
            signs=np.packbits(signs).tobytes(),
            bits=np.packbits((in_bf16.view(torch.int16) & 1).numpy().astype(np.uint8)).tobytes(),
            is_bf16=torch.equal(in_bf16.float(), norms),
        )
    )


def _norms(model: PreTrainedModel) -> Tensor:
    """Fixed entries of the norms' weights: all that have one dimension. (`NUM_BITS`,) or fewer, float32"""
    norms = [p.detach().reshape(-1) for name, p in model.named_parameters() if p.ndim == 1 and name.endswith("weight")]
    if not norms:
        return torch.zeros(0)
    return _picked(torch.cat([norm.to(norms[0].device, torch.float32) for norm in norms]), NUM_BITS).cpu()


def _picked(flat: Tensor, count: int) -> Tensor:
    """So many entries, evenly spread. (N,) -> (count,) or (N,)"""
    indices = torch.linspace(0, flat.numel() - 1, min(count, flat.numel()), dtype=torch.float64).long()
    return flat[indices.to(flat.device)]
