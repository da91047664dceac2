"""Fingerprints: which model a controller belongs to, over all compressions of that model but no fine-tune of it."""

import hashlib
import json

import torch
from transformers import PreTrainedModel

NUM_SIGNS = 4096
VOLATILE_FIELDS = frozenset(
    {
        "dtype",
        "torch_dtype",
        "quantization_config",
        "_name_or_path",
        "name_or_path",
        "transformers_version",
        "architectures",
        "use_cache",
        "output_hidden_states",
        "output_attentions",
        "return_dict",
    }
)
"""Config fields that differ between two loads of the same weights."""


def model_fingerprint(model: PreTrainedModel) -> str:
    """Sha256 of the config without dtype, quantisation and path fields, and of the signs of 4,096 fixed entries of
    the input embedding, which survive casting and quantisation. 64 hex digits."""
    config = {k: v for k, v in model.config.to_diff_dict().items() if k not in VOLATILE_FIELDS}
    weight = model.get_input_embeddings().weight.detach()
    flat = weight.reshape(-1)
    indices = torch.linspace(0, flat.numel() - 1, min(NUM_SIGNS, flat.numel()), dtype=torch.float64).long()
    signs = (flat[indices.to(flat.device)] > 0).to(torch.uint8).cpu().numpy().tobytes()
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode() + signs).hexdigest()
