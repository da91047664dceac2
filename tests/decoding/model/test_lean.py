"""Lean layers: one row gets the bits of the modules, several their numbers; what the user attaches still runs."""

import pytest
import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.model import lean
from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.model.ragged import RaggedCall
from tests.decoding.families import random_model, random_prompt

LEAN_VARIANTS = (
    "llama",
    "llama-biased-tied",
    "llama3-rope",
    "qwen2",
    "qwen2-sliding",
    "qwen3",
    "qwen3-sliding",
    "mistral",
    "mistral-sliding",
)


def with_modules(adapter: ModelAdapter) -> ModelAdapter:
    """The same adapter, which a hook that does nothing keeps from running lean layers."""
    handle = adapter.layers[0].register_forward_hook(lambda *_: None)
    adapter.refresh()
    handle.remove()
    return adapter


@torch.inference_mode()
def logits_in_blocks(adapter: ModelAdapter, token_ids: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """The first block is the prompt, on which the head is read row by row. (T, V)"""
    cache, position, rows = adapter.new_cache(4), 0, []
    for size in sizes:
        hidden = adapter.embed(token_ids[:, position : position + size], position)
        hidden = adapter.run_layers(hidden, 0, adapter.num_layers, cache, position)
        blocks = [hidden] if position else hidden.split(1, dim=1)
        rows.extend(adapter.read_head(block)[0] for block in blocks)
        position += size
    return torch.cat(rows)


@pytest.mark.parametrize("name", LEAN_VARIANTS)
def test_one_row_gets_the_bits_of_the_modules_and_several_rows_their_numbers(name: str) -> None:
    model = random_model(name)
    both = ModelAdapter(model), with_modules(ModelAdapter(model))
    assert both[0]._lean and not both[1]._lean
    token_ids = random_prompt(1, 24)
    assert torch.equal(*(logits_in_blocks(each, token_ids, (5, *[1] * 19)) for each in both))
    several = [logits_in_blocks(each, token_ids, (5, 3, 1, 8, 2, 5)) for each in both]
    torch.testing.assert_close(*several, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_one_row_gets_the_bits_of_the_modules_in_other_types(dtype: torch.dtype) -> None:
    model = random_model("qwen3", dtype=dtype)
    both = ModelAdapter(model), with_modules(ModelAdapter(model))
    assert both[0]._lean and not both[1]._lean
    assert torch.equal(*(logits_in_blocks(each, random_prompt(1, 12), (5, *[1] * 7)) for each in both))


@pytest.mark.parametrize("name", ["llama", "qwen3-sliding", "mistral-sliding"])
@torch.inference_mode()
def test_rows_of_a_batch_with_lengths_of_their_own_equal_those_of_the_modules(name: str) -> None:
    model = random_model(name)
    results = []
    for adapter in (ModelAdapter(model), with_modules(ModelAdapter(model))):
        cache = adapter.new_cache(4, batch_size=2)
        for slot, length in enumerate((9, 5)):
            hidden = adapter.embed(random_prompt(slot, length), 0)
            adapter.run_rows(hidden, 0, 4, cache, RaggedCall([slot], [0], [length]))
        call = RaggedCall([0, 1], [9, 5], [3, 2])
        hidden = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
        several = adapter.run_rows(hidden, 0, 4, cache, call)
        single = adapter.run_rows(hidden[:, :1], 0, 4, cache, RaggedCall([0, 1], [12, 7], [1, 1]))
        results.append((several[0], several[1, :2], single))
    torch.testing.assert_close(results[0], results[1], atol=2e-5, rtol=2e-5)


def test_hooks_that_come_after_the_decoder_are_called_and_the_output_is_the_same() -> None:
    model, calls = random_model("llama"), []
    decoder = SpecBoundDecoder(model)
    prompt = random_prompt(3, 6)
    expected = decoder.generate(prompt, max_new_tokens=8)
    model.model.layers[2].self_attn.o_proj.register_forward_hook(lambda *_: calls.append("projection"))
    assert torch.equal(decoder.generate(prompt, max_new_tokens=8), expected)
    model.model.layers[1].mlp.register_forward_pre_hook(lambda *_: calls.append("mlp"))
    assert torch.equal(decoder.generate(prompt, max_new_tokens=8), expected)
    assert calls.count("projection") == 16 and calls.count("mlp") == 8


def test_a_projection_of_another_class_is_called_as_a_module() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    model = random_model("llama")
    adapter = ModelAdapter(model)
    before = logits_in_blocks(adapter, random_prompt(0, 6), (5, 1))
    for layer in model.model.layers:
        layer.mlp.up_proj.__class__ = Doubled
    adapter.refresh()
    assert adapter._lean
    after = logits_in_blocks(adapter, random_prompt(0, 6), (5, 1))
    assert torch.equal(after, logits_in_blocks(with_modules(adapter), random_prompt(0, 6), (5, 1)))
    assert not torch.allclose(before, after)


def test_layers_run_as_modules_where_lean_ones_would_differ(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lean, "silu", torch.relu)
    with caplog.at_level("INFO"):
        adapter = ModelAdapter(random_model("llama"))
    assert not adapter._lean and "LlamaForCausalLM" in caplog.text


@pytest.mark.parametrize("name", ["gemma", "gpt2", "phi3", "olmo2"])
def test_other_shapes_and_other_kernels_run_as_modules(name: str) -> None:
    assert not ModelAdapter(random_model(name))._lean
    eager = random_model("llama")
    eager.config._attn_implementation = "eager"
    assert not ModelAdapter(eager)._lean


@pytest.mark.parametrize("name", ["llama", "qwen3-sliding"])
def test_layers_of_a_row_stable_twin_are_lean_too_and_give_its_bits(name: str) -> None:
    adapter = SpecBoundDecoder(random_model(name), exactness="bitwise").step_adapter
    assert adapter._lean
    sizes = [logits_in_blocks(adapter, random_prompt(1, 24), sizes) for sizes in ((5, *[1] * 19), (5, 3, 1, 8, 2, 5))]
    modules = logits_in_blocks(with_modules(adapter), random_prompt(1, 24), (5, 3, 1, 8, 2, 5))
    assert not adapter._lean
    assert torch.equal(sizes[0], sizes[1]) and torch.equal(sizes[1], modules)


@pytest.mark.parametrize("width", [20, 320, 4096])
def test_norms_of_several_rows_are_as_precise_as_those_of_one(width: int) -> None:
    norm = LlamaRMSNorm(width)
    torch.nn.init.normal_(norm.weight)
    rows = torch.randn(6, width, generator=torch.Generator().manual_seed(0)) * torch.logspace(-4, 3, 6)[:, None]
    rows[2] = 0.5  # a mean as large as the root mean square
    rows[3, 7] = 1e5  # one outlier, as language models have them
    exact = rows.double()
    exact = norm.weight.double() * exact * (exact.square().mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()
    with torch.no_grad():
        together = lean.lean_norm(norm, keeps_bits=False)(rows)
        apart = torch.cat([lean.lean_norm(norm, keeps_bits=False)(row[None]) for row in rows])
        assert torch.equal(apart, norm(rows)) and torch.equal(lean.lean_norm(norm, keeps_bits=True)(rows), norm(rows))
    torch.testing.assert_close(together.double(), exact, rtol=2e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_norms_of_other_types_give_the_bits_of_the_module(dtype: torch.dtype) -> None:
    norm = LlamaRMSNorm(576).to(dtype)
    torch.nn.init.normal_(norm.weight)
    rows = torch.randn(9, 576, generator=torch.Generator().manual_seed(0)).to(dtype) * 7
    made = lean.lean_norm(norm, keeps_bits=False)
    with torch.no_grad():
        assert not isinstance(made, nn.Module) and torch.equal(made(rows), norm(rows))
        norm.weight.mul_(2)  # an owner may write to it
        assert torch.equal(made(rows[:1]), norm(rows[:1]))
