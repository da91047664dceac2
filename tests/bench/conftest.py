"""A random Llama whose exits and last layer agree now and then."""

import pytest
import torch
from transformers import LlamaForCausalLM

from specbound.evaluation.timing import TimedPrompt
from tests.tiny_models import tiny_llama


@pytest.fixture(scope="session")
def llama() -> LlamaForCausalLM:
    """Six layers; the deep ones say little, so that drafts are accepted sometimes, not always."""
    ends = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 1}
    sizes = {"vocab_size": 60, "intermediate_size": 64, "num_hidden_layers": 6, "max_position_embeddings": 512}
    model = tiny_llama(spread=0.2, **sizes, **ends)
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
