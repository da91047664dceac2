"""Small random models of the Llama shape, the same weights at every call."""

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def tiny_llama(spread: float | None = None, **sizes: Any) -> LlamaForCausalLM:
    """Four layers without an end token, unless `sizes`, settings of the config, say otherwise.

    spread: standard deviation of all matrices, so that a token says much about the next; None leaves the usual one.
    """
    torch.manual_seed(0)
    usual = {
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "eos_token_id": None,
    }
    model = LlamaForCausalLM(LlamaConfig(**usual | sizes)).eval()
    for parameter in model.parameters() if spread is not None else ():
        if parameter.ndim == 2:
            parameter.data.normal_(0.0, spread)
    return model
