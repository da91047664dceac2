"""Real weights: stories260K, a Llama in llama2.c's format, decodes to the same tokens in every mode."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from specbound.decoding.decoder import SpecBoundDecoder
from specbound_controller.policy import StaticPolicy

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "weights" / "stories260K"
pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="stories260K weights are not at hand")

OPENINGS = (
    "Once upon a time, there was a",
    "One day, a little girl named Lily",
    "The big dog ran to",
    "Tom and his mom went",
)
PROMPTS = [opening + ending for opening in OPENINGS for ending in ("", " happy boy")]


def load_model() -> LlamaForCausalLM:
    """Reads llama2.c's legacy checkpoint: a header of seven int32, then fp32 tensors one after another."""
    data = (FOLDER / "stories260K.bin").read_bytes()
    dim, hidden, layers, heads, kv_heads, vocab, length = struct.unpack("7i", data[:28])
    values = torch.from_numpy(np.frombuffer(data, dtype=np.float32, offset=28).copy())
    position = 0

    def take(*shape: int) -> torch.Tensor:
        nonlocal position
        count = int(np.prod(shape))
        position += count
        return values[position - count : position].reshape(shape)

    def halves(weight: torch.Tensor, num_heads: int) -> torch.Tensor:
        """From rotary pairs side by side to transformers' two halves of a head."""
        rows, columns = weight.shape
        return weight.reshape(num_heads, rows // num_heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)

    kv_dim = dim * kv_heads // heads
    embedding, attention_norm = take(vocab, dim), take(layers, dim)
    q, k, v, o = take(layers, dim, dim), take(layers, kv_dim, dim), take(layers, kv_dim, dim), take(layers, dim, dim)
    mlp_norm = take(layers, dim)
    gate, down, up = take(layers, hidden, dim), take(layers, dim, hidden), take(layers, hidden, dim)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=dim,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=length,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=1,
    )
    state = {"model.embed_tokens.weight": embedding, "model.norm.weight": take(dim), "lm_head.weight": embedding}
    for i in range(layers):
        state |= {
            f"model.layers.{i}.input_layernorm.weight": attention_norm[i],
            f"model.layers.{i}.self_attn.q_proj.weight": halves(q[i], heads),
            f"model.layers.{i}.self_attn.k_proj.weight": halves(k[i], kv_heads),
            f"model.layers.{i}.self_attn.v_proj.weight": v[i],
            f"model.layers.{i}.self_attn.o_proj.weight": o[i],
            f"model.layers.{i}.post_attention_layernorm.weight": mlp_norm[i],
            f"model.layers.{i}.mlp.gate_proj.weight": gate[i],
            f"model.layers.{i}.mlp.down_proj.weight": down[i],
            f"model.layers.{i}.mlp.up_proj.weight": up[i],
        }
    model = LlamaForCausalLM(config).eval()
    model.load_state_dict(state)
    return model


def vocabulary() -> list[str]:
    data, pieces, position = (FOLDER / "tok512.bin").read_bytes(), [], 4
    while position < len(data):
        (length,) = struct.unpack("i", data[position + 4 : position + 8])
        pieces.append(data[position + 8 : position + 8 + length].decode(errors="replace"))
        position += 8 + length
    return pieces


def encode(text: str, pieces: list[str]) -> torch.Tensor:
    """Longest match from the left: enough to write a prompt. (1, T)"""
    ids, rest = [1], " " + text
    while rest:
        length = next(n for n in range(len(rest), 0, -1) if rest[:n] in pieces)
        ids.append(pieces.index(rest[:length]))
        rest = rest[length:]
    return torch.tensor([ids])


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return load_model()


def test_the_converted_model_writes_stories(model: LlamaForCausalLM) -> None:
    pieces = vocabulary()
    output = SpecBoundDecoder(model).decode(encode(OPENINGS[0], pieces), max_new_tokens=40)
    text = "".join(pieces[token] for token in output.sequences[0].tolist())
    assert "Once upon a time, there was a little" in text


@pytest.mark.parametrize("prompt", PROMPTS)
def test_speculative_output_equals_plain_and_transformers_output(model: LlamaForCausalLM, prompt: str) -> None:
    input_ids = encode(prompt, vocabulary())
    expected = model.generate(input_ids, max_new_tokens=80, do_sample=False, pad_token_id=0)
    for policy in (None, StaticPolicy((4,), 0.0, 5), StaticPolicy((2, 3, 4), 0.6, 6, alpha=0.5)):
        output = SpecBoundDecoder(model, policy).decode(input_ids, max_new_tokens=80)
        assert torch.equal(output.sequences, expected)
