"""Tests of the bitwise exactness level: rows computed together equal rows computed one by one, to the last bit."""

import copy
import itertools
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedModel,
)

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.model.row_blocks import MAX_BLOCK_ROWS, RowNorm, longest_run
from specbound.decoding.model.row_stable import activate_rows, int8_projection, row_stable_model
from specbound.decoding.model.row_stable_check import check_row_stable
from specbound_controller.errors import UnsupportedModelError
from specbound_controller.policy import StaticPolicy
from specbound_controller.records import Decision
from tests.decoding.families import VARIANTS, random_model, random_prompt, save_llama_with_outliers

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NUM_POSITIONS = 40
COMPRESSIONS: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    "int8-6": (torch.float16, {"load_in_8bit": True, "llm_int8_threshold": 6.0}),
    "int8-0": (torch.float16, {"load_in_8bit": True, "llm_int8_threshold": 0.0}),
    **{
        f"nf4-{name}": (dtype, {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype})
        for name, dtype in DTYPES.items()
    },
}


class WidthPolicy(StaticPolicy):
    """Drafts of every length from changing exits, accepted or not."""

    def __init__(self, num_layers: int) -> None:
        super().__init__((), w_max=0)
        self.by_step = itertools.cycle(Decision(w, {1 + w % (num_layers - 1): 0.0}) for w in (4, 1, 7, 0, 2, 9, 3))

    def decide(self, features: object) -> Decision:
        return next(self.by_step)


@torch.inference_mode()
def run_in_blocks(adapter: ModelAdapter, tokens: Tensor, sizes: Iterator[int]) -> Tensor:
    """Logits (B, T, V) of tokens (B, T) that run in calls of some sizes."""
    cache = adapter.new_cache(16, tokens.shape[0])
    logits, position = [], 0
    while position < tokens.shape[1]:
        block = tokens[:, position : position + next(sizes)]
        hidden = adapter.run_layers(adapter.embed(block, position), 0, adapter.num_layers, cache, position)
        logits.append(adapter.read_head(hidden))
        position += block.shape[1]
    return torch.cat(logits, dim=1)


def differing_tokens(adapter: ModelAdapter, seed: int = 0) -> int:
    """Tokens whose logits in calls of 2 to 17 rows are not bitwise those of calls of one row."""
    chance = random.Random(seed)
    sizes = [*range(2, 10), 17]
    tokens = random_prompt(seed, NUM_POSITIONS)
    alone = run_in_blocks(adapter, tokens, itertools.repeat(1))
    together = run_in_blocks(adapter, tokens, iter(lambda: chance.choice(sizes), 0))
    return int((alone != together).any(-1).sum())


def plain_and_speculative(model: PreTrainedModel, seed: int, length: int = 60) -> tuple[Tensor, Tensor]:
    """Outputs without drafts and with drafts of many lengths."""
    prompt = random_prompt(seed, 12)
    policies = StaticPolicy((), w_max=0), WidthPolicy(model.config.num_hidden_layers)
    plain, drafted = (
        SpecBoundDecoder(model, policy).decode(prompt, max_new_tokens=length, do_sample=False).sequences
        for policy in policies
    )
    return plain, drafted


@pytest.fixture(scope="module")
def saved_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random llama on disk, with a few dimensions large enough that some tokens have int8 outliers, and some not."""
    path = tmp_path_factory.mktemp("llama")
    save_llama_with_outliers(path, num_layers=3)
    return path


def compressed(path: Path, name: str) -> PreTrainedModel:
    pytest.importorskip("bitsandbytes")
    dtype, options = COMPRESSIONS[name]
    return AutoModelForCausalLM.from_pretrained(
        path, dtype=dtype, quantization_config=BitsAndBytesConfig(**options), device_map="cpu"
    ).eval()


# --- whole models


@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_of_many_rows_equal_those_of_one_row_in_every_family(dtype: str) -> None:
    for name in VARIANTS:
        twin = row_stable_model(random_model(name, seed=1, num_layers=2, dtype=DTYPES[dtype]))
        assert differing_tokens(ModelAdapter(twin)) == 0, name


def test_double_precision_and_eager_attention_are_row_stable_too() -> None:
    model = random_model("qwen3-sliding", dtype=torch.float64)
    twin = row_stable_model(model)
    assert differing_tokens(ModelAdapter(twin)) == 0
    model.set_attn_implementation("eager")  # after the twin was made: it asks the user's config at every call
    for dtype in DTYPES.values():
        assert differing_tokens(ModelAdapter(row_stable_model(model.to(dtype)))) == 0


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_logits_of_many_rows_equal_those_of_one_row_when_quantised(saved_llama: Path, name: str) -> None:
    adapter = ModelAdapter(row_stable_model(compressed(saved_llama, name)))
    check_row_stable(adapter)
    assert sum(differing_tokens(adapter, seed) for seed in range(2)) == 0


def test_some_tokens_of_the_int8_model_have_outliers(saved_llama: Path) -> None:
    model = compressed(saved_llama, "int8-6")
    largest: list[Tensor] = []
    model.model.layers[1].self_attn.q_proj.register_forward_hook(lambda _, inputs, __: largest.append(inputs[0]))
    differing_tokens(ModelAdapter(row_stable_model(model)))
    outliers = torch.cat([x.flatten(0, 1) for x in largest]).abs().amax(-1) >= 6.0
    assert 0.02 < outliers.float().mean() < 0.9


def test_sequences_of_a_batch_equal_sequences_alone() -> None:
    tokens = torch.cat([random_prompt(seed, 40) for seed in range(3)])
    for name, dtype in (("llama", torch.bfloat16), ("gemma3", torch.float32), ("gpt2", torch.float16)):
        adapter = ModelAdapter(row_stable_model(random_model(name, dtype=dtype)))
        together = run_in_blocks(adapter, tokens, itertools.cycle((1, 3, 5)))
        alone = [run_in_blocks(adapter, row[None], itertools.repeat(1)) for row in tokens]
        assert torch.equal(together, torch.cat(alone)), name


def test_speculative_output_equals_plain_output_where_the_model_itself_would_differ() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        model = random_model("llama", seed=3, num_layers=3, dtype=dtype)
        head = model.lm_head.weight.data
        head[1::2] = head[:-1:2]
        head[1::2, 0] *= 1.02  # pairs of tokens that rounding decides between
        twin = row_stable_model(model)
        for seed in range(4):
            plain, drafted = plain_and_speculative(twin, seed)
            assert torch.equal(plain, drafted)
        assert any(not torch.equal(*plain_and_speculative(model, seed)) for seed in range(8))


@pytest.mark.parametrize("name", ["int8-6", "int8-0", "nf4-fp32", "nf4-bf16"])
def test_speculative_output_equals_plain_output_when_quantised(saved_llama: Path, name: str) -> None:
    twin = row_stable_model(compressed(saved_llama, name))
    for seed in range(2):
        plain, drafted = plain_and_speculative(twin, seed, length=40)
        assert torch.equal(plain, drafted)


# --- the user's model


def test_the_twin_shares_parameters_and_leaves_the_model_untouched() -> None:
    model = random_model("qwen3", dtype=torch.bfloat16)
    modules, config = dict(model.named_modules()), copy.deepcopy(model.config)
    attributes = {name: dict(module.__dict__) for name, module in modules.items()}
    twin = row_stable_model(model)
    differing_tokens(ModelAdapter(twin))
    assert dict(model.named_modules()) == modules
    assert {name: dict(module.__dict__) for name, module in modules.items()} == attributes
    assert model.config == config
    assert model.config._attn_implementation == "sdpa"
    assert all(a is b for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert twin.model.embed_tokens is model.model.embed_tokens
    assert twin.model.layers[0].mlp.up_proj is not model.model.layers[0].mlp.up_proj


def test_two_threads_one_on_the_model_and_one_on_its_twin_do_not_meet() -> None:
    model = random_model("llama", dtype=torch.bfloat16)
    adapters = ModelAdapter(model), ModelAdapter(row_stable_model(model))
    tokens = random_prompt(0, 60)

    def logits(adapter: ModelAdapter) -> Tensor:
        return run_in_blocks(adapter, tokens, itertools.cycle((5, 3)))

    expected = [logits(adapter) for adapter in adapters]
    assert not torch.equal(*expected)
    found: dict[int, list[Tensor]] = {0: [], 1: []}

    def work(index: int) -> None:
        found[index] = [logits(adapters[index]) for _ in range(5)]

    workers = [threading.Thread(target=work, args=(index,)) for index in found]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for index, results in found.items():
        assert len(results) == 5
        assert all(torch.equal(result, expected[index]) for result in results)


def test_models_that_cannot_be_copied_are_refused() -> None:
    model = random_model("llama")
    model.model.layers[1].mlp.forward = lambda x: x
    with pytest.raises(UnsupportedModelError, match="LlamaMLP with a forward of its own"):
        row_stable_model(model)
    model = random_model("llama")
    model.lm_head.to("meta")
    with pytest.raises(UnsupportedModelError, match="is on cpu, meta: bitwise exactness needs one device"):
        row_stable_model(model)


# --- the parts


def test_one_int8_row_is_computed_as_bitsandbytes_does(saved_llama: Path) -> None:
    layer = compressed(saved_llama, "int8-6").model.layers[0].mlp.down_proj
    rows = torch.randn(9, 192, generator=torch.Generator().manual_seed(0)).half()
    rows[[1, 4, 5], [7, 100, 8]] = torch.tensor([9.0, -20.0, 6.0]).half()
    with torch.inference_mode():
        expected = torch.cat([layer(row) for row in rows.split(1)])
        assert torch.equal(int8_projection(layer, rows), expected)
        assert not torch.equal(layer(rows), expected)  # one row's outliers change the others


@pytest.mark.parametrize("width", [17, 48, 64, 97])
def test_activations_do_not_depend_on_the_rows_beside(width: int) -> None:
    rows = 3 * torch.randn(1, 40, width, generator=torch.Generator().manual_seed(0))
    for activation in (nn.SiLU(), nn.GELU(), nn.GELU(approximate="tanh")):
        alone = torch.cat([activate_rows(activation, rows[:, i : i + 1]) for i in range(40)], dim=1)
        together = torch.cat([activate_rows(activation, block) for block in rows.split(7, dim=1)], dim=1)
        assert torch.equal(alone, together)


@pytest.mark.parametrize(("batch_size", "num_tokens"), [(1, 1), (1, 8), (1, 11), (3, 5)])
def test_a_norm_in_blocks_is_the_norm_of_every_token(batch_size: int, num_tokens: int) -> None:
    norm, heads = nn.LayerNorm(6), torch.randn(batch_size, num_tokens, 2, 6)
    counts: list[int] = []

    def counted(x: Tensor) -> Tensor:
        counts.append(x.shape[0])
        return norm(x)

    torch.testing.assert_close(RowNorm(counted).in_blocks(heads), norm(heads))
    assert set(counts) == {MAX_BLOCK_ROWS}


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2"])
def test_a_twin_for_a_gpu_with_norms_in_blocks_decodes_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompt = random_model(name), random_prompt(0, 9)
    expected = SpecBoundDecoder(model, exactness="bitwise").generate(prompt, max_new_tokens=20)
    monkeypatch.setattr("specbound.decoding.model.row_stable.is_on_gpu", lambda module: True)
    monkeypatch.setattr(RowNorm, "__call__", RowNorm.in_blocks)
    decoder = SpecBoundDecoder(model, StaticPolicy((2,), 0.0, 3), exactness="bitwise")
    norms = [m for m in decoder.step_adapter.model.modules() if isinstance(m.__dict__.get("forward"), RowNorm)]
    assert len(norms) >= 2 * decoder.adapter.num_layers + 1
    assert torch.equal(decoder.generate(prompt, max_new_tokens=20), expected)


def test_of_equally_long_runs_a_gpu_takes_the_most_rows() -> None:
    runs = [[1], [2, 3], [4], [5, 6], [8]]
    assert longest_run(runs, prefers_many=False) == (2, 3) and longest_run(runs, prefers_many=True) == (5, 6)
