"""A random Llama whose exits and last layer agree now and then."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from specbound.evaluation.timing import TimedPrompt


@pytest.fixture(scope="session")
def llama() -> LlamaForCausalLM:
    """Six layers; the deep ones say little, so that drafts are accepted sometimes, not always."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=1,
    )
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data.normal_(0.0, 0.2)
    for layer in model.model.layers[2:]:
        layer.self_attn.o_proj.weight.data *= 0.4
        layer.mlp.down_proj.weight.data *= 0.4
    model.generation_config.eos_token_id = None
    return model


@pytest.fixture(scope="session")
def timed_prompts() -> list[TimedPrompt]:
    """Three prompts of two kinds."""
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(2, 60, (1, length), generator=generator) for length in (5, 9, 12)]
    return [TimedPrompt(f"p{i}", ("a", "b", "a")[i], each, 20) for i, each in enumerate(ids)]
