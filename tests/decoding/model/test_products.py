"""Products of a few rows: torch's numbers but for rounding, one row its bits, and always the weights as they are."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import LlamaConfig, LlamaForCausalLM

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.model import products
from specbound.decoding.model.products import LEAST_NUMBERS, MOST_ROWS, FewRowsProduct, Packing, can_pack
from specbound_controller.sources.context import ContextSource
from specbound_controller.trees.plan import TreePlan
from specbound_controller.trees.policy import TreePolicy

ROWS = range(1, MOST_ROWS + 4)


def product_of(inputs: int, outputs: int, bias: bool, is_allowed: bool) -> tuple[nn.Linear, FewRowsProduct]:
    torch.manual_seed(inputs)
    module = nn.Linear(inputs, outputs, bias=bias)
    packing = Packing(0)
    packing.is_allowed = is_allowed and can_pack()
    return module, FewRowsProduct(module, packing)


@pytest.mark.parametrize("is_allowed", [True, False])
@pytest.mark.parametrize(("inputs", "outputs", "bias"), [(600, 560, False), (640, 512, True), (48, 32, True)])
@torch.inference_mode()
def test_all_row_counts_give_torchs_numbers_but_for_rounding(
    inputs: int, outputs: int, bias: bool, is_allowed: bool
) -> None:
    module, product = product_of(inputs, outputs, bias, is_allowed)
    for rows in ROWS:
        x = torch.randn(rows, inputs)
        assert torch.allclose(product(x), linear(x.double(), *_double(module)).float(), atol=1e-4), rows
        assert product(x).is_contiguous()
        assert torch.equal(product(x[None])[0], product(x))
        assert torch.equal(product(x.view(1, rows, inputs)[:, :1]), linear(x[None, :1], module.weight, module.bias))


def _double(module: nn.Linear) -> tuple[Tensor, Tensor | None]:
    return module.weight.double(), None if module.bias is None else module.bias.double()


@pytest.mark.skipif(not can_pack(), reason="torch without MKL")
@torch.inference_mode()
def test_large_weights_are_packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    packs: list[int] = []
    pack = torch.ops.mkl._mkl_reorder_linear_weight
    monkeypatch.setattr(
        products.torch.ops.mkl, "_mkl_reorder_linear_weight", lambda w, rows: packs.append(rows) or pack(w, rows)
    )
    _, product = product_of(600, 560, False, True)
    product(torch.randn(3, 600)), product(torch.randn(12, 600))
    assert packs == []
    for rows in (4, 8, 5):
        product._packing.begin_call()
        product(torch.randn(rows, 600))
    assert packs == [products.PACKED_ROWS]
    _, small = product_of(48, 32, False, True)
    small(torch.randn(5, 48))
    assert packs == [products.PACKED_ROWS]


def write_in_place(module: nn.Linear) -> None:
    module.weight.data[3, 5] += 1.0  # leaves no trace in the version counter


def replace(module: nn.Linear) -> None:
    module.weight = nn.Parameter(module.weight.detach() * 2)


def point_elsewhere(module: nn.Linear) -> None:
    module.weight.data = module.weight.data * 2


@pytest.mark.parametrize("change", [write_in_place, replace, point_elsewhere])
@pytest.mark.parametrize("rows", [4, 8, 12])
def test_a_change_of_the_weights_is_seen_by_the_next_call(change: Callable[[nn.Linear], None], rows: int) -> None:
    module, product = product_of(600, 560, False, True)
    x = torch.randn(rows, 600)
    with torch.inference_mode():
        before = product(x)
    change(module)
    product._packing.begin_call()
    with torch.inference_mode():
        after = product(x)
        assert not torch.allclose(before, after, atol=1e-4)
        assert torch.allclose(after, linear(x, module.weight), atol=1e-4)


def test_without_memory_nothing_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Packing(0).is_allowed == can_pack()
    assert not Packing(1 << 60).is_allowed


@pytest.mark.parametrize("is_allowed", [True, False])
def test_trees_on_a_model_of_large_weights_give_plain_decodings_output(
    is_allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "can_pack", lambda: is_allowed and can_pack())
    torch.manual_seed(0)
    sizes = {"hidden_size": 576, "intermediate_size": 640, "num_attention_heads": 9, "num_key_value_heads": 3}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=600, num_hidden_layers=2, **sizes)).eval()
    assert model.lm_head.weight.numel() >= LEAST_NUMBERS
    rates = {"context": [0.5] * ContextSource.num_cells, "recycled": [0.4, 0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1]}
    prompt = torch.arange(30)[None] % 7
    expected = SpecBoundDecoder(model).decode(prompt, max_new_tokens=24, do_sample=False).sequences
    for most in (3, 5, 7, 12):
        decoder = SpecBoundDecoder(model, TreePolicy(TreePlan(most, rates)))
        assert decoder.adapter.packing.is_allowed == is_allowed
        output = decoder.decode(prompt, max_new_tokens=24, do_sample=False)
        assert torch.equal(output.sequences, expected)
        assert output.stats.num_accepted > 0
