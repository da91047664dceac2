"""Small GGUF files with everything that a real one has: a Llama, a byte-level tokenizer, a chat template."""

from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
MERGES = ["t h", "th e", "a n", "i n"]


def source_model(seed: int = 0) -> LlamaForCausalLM:
    """The model whose weights a file holds. Two layers, tied head."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=256 + len(SPECIAL) + len(MERGES),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=256,
        initializer_range=0.2,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.uniform_(0.5, 1.5)
    return model


def quantised(weight: np.ndarray, kind: Kind) -> np.ndarray:
    """What is left of a weight."""
    return gguf.quants.dequantize(gguf.quants.quantize(weight, kind), kind)


def write_gguf(
    path: Path,
    model: LlamaForCausalLM | None = None,
    kind: Kind = Kind.Q4_1,
    architecture: str = "llama",
    without: str = "none",
) -> Path:
    """Writes a file. without: name of a tensor that is left out."""
    model = model or source_model()
    writer = gguf.GGUFWriter(path, architecture)
    _add_settings(writer, model.config)
    _add_tokenizer(writer)
    for name, weight in _gguf_tensors(model).items():
        if name == without:
            continue
        if weight.ndim == 1:
            writer.add_tensor(name, weight)
        else:
            writer.add_tensor(name, gguf.quants.quantize(weight, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_settings(writer: gguf.GGUFWriter, config: LlamaConfig) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    tokens = [*bytes_to_unicode().values(), *SPECIAL, *(merge.replace(" ", "") for merge in MERGES)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
    writer.add_token_merges(MERGES)
    writer.add_eos_token_id(256)
    writer.add_chat_template(TEMPLATE)


def _gguf_tensors(model: LlamaForCausalLM) -> dict[str, np.ndarray]:
    config, state = model.config, {name: value.numpy() for name, value in model.state_dict().items()}
    tensors = {
        "token_embd.weight": state["model.embed_tokens.weight"],
        "output_norm.weight": state["model.norm.weight"],
    }
    parts = {
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
    }
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for layer in range(config.num_hidden_layers):
        for short, part in parts.items():
            weight = state[f"model.layers.{layer}.{part}.weight"]
            tensors[f"blk.{layer}.{short}.weight"] = _permuted(weight, heads[short]) if short in heads else weight
    return tensors


def _permuted(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """Rows as llama.cpp rotates them: the two halves of each head interleaved."""
    rows, columns = weight.shape
    return weight.reshape(num_heads, 2, rows // num_heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
