"""Small random models of every family that the adapter runs, built from a config."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from specbound.decoding.model.families import FAMILIES
from tests.tiny_models import tiny_llama

COMMON = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
HEAD_DIM = {"head_dim": 8}
MIXED = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 12}

# name -> (model type, settings on top of COMMON)
VARIANTS: dict[str, tuple[str, dict]] = {
    "llama": ("llama", {}),
    "llama-biased-tied": ("llama", {"attention_bias": True, "tie_word_embeddings": True, "num_key_value_heads": 4}),
    "llama3-rope": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 1e4,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "qwen2": ("qwen2", {}),
    "qwen2-sliding": ("qwen2", {"use_sliding_window": True, **MIXED}),
    "qwen3": ("qwen3", HEAD_DIM),
    "qwen3-sliding": ("qwen3", {"use_sliding_window": True, **HEAD_DIM, **MIXED}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral-sliding": ("mistral", {"sliding_window": 12}),
    "gemma": ("gemma", HEAD_DIM),
    "gemma2": ("gemma2", {**HEAD_DIM, "sliding_window": 12, "query_pre_attn_scalar": 8}),
    "gemma3": ("gemma3_text", {**HEAD_DIM, **MIXED, "query_pre_attn_scalar": 8}),
    "phi": ("phi", {"num_key_value_heads": 4, "partial_rotary_factor": 0.5}),
    "phi3": ("phi3", {"sliding_window": None}),
    "phi3-sliding": ("phi3", {"sliding_window": 12}),
    "stablelm": ("stablelm", {"use_parallel_residual": True}),
    "olmo2": ("olmo2", {}),
    "gpt_neox": ("gpt_neox", {"intermediate_size": 64}),
    "gpt2": ("gpt2", {"n_inner": 64}),
    "opt": ("opt", {"ffn_dim": 64, "word_embed_proj_dim": 16, "do_layer_norm_before": True}),
}
assert {model_type for model_type, _ in VARIANTS.values()} == set(FAMILIES)


def random_model(name: str, seed: int = 0, num_layers: int = 4, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A random model of one variant, in eval mode.

    Weights are drawn wider than by default, so that layers and tokens matter and the argmax is not a coin toss.
    """
    model_type, settings = VARIANTS[name]
    settings = {**COMMON, "num_hidden_layers": num_layers, **settings}
    if "layer_types" in settings:
        settings["layer_types"] = [MIXED["layer_types"][i % 2] for i in range(num_layers)]
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **settings)).to(dtype).eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data.normal_(0.0, 0.25, generator=generator)
    return model


def random_prompt(seed: int, length: int, vocab_size: int = 97) -> torch.Tensor:
    """(1, length) token ids."""
    return torch.randint(3, vocab_size, (1, length), generator=torch.Generator().manual_seed(seed))


def save_llama_with_outliers(folder: Path | str, num_layers: int) -> None:
    """A random llama on disk, with a few dimensions large enough that some tokens have int8 outliers, and some not."""
    sizes = {"vocab_size": 97, "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": num_layers}
    model = tiny_llama(spread=0.2, **sizes, bos_token_id=None)
    for layer in model.model.layers:
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.weight.data[[3, 50, 77]] = 4.0
    model.save_pretrained(folder)
