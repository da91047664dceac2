"""The model adapter: layer-by-layer execution equals the model's own forward pass."""

import copy

import pytest
import torch

from specbound.decoding.model.adapter import ModelAdapter
from tests.decoding.families import VARIANTS, random_model, random_prompt


@pytest.mark.parametrize("name", VARIANTS)
@torch.inference_mode()
def test_layer_by_layer_logits_equal_the_forward_pass(name: str) -> None:
    model = random_model(name)
    adapter = ModelAdapter(model)
    token_ids = random_prompt(1, 40)
    expected = model(token_ids).logits[0]
    cache = adapter.new_cache(capacity=8)
    rows, position = [], 0
    for count in (17, 1, 1, 5, 1, 12, 3):  # prefill longer than the window, single tokens, verify-sized blocks
        hidden = adapter.embed(token_ids[:, position : position + count], position)
        hidden = adapter.run_layers(hidden, 0, 2, cache, position)
        hidden = adapter.run_layers(hidden, 2, adapter.num_layers, cache, position)
        rows.append(adapter.read_head(hidden)[0])
        position += count
    torch.testing.assert_close(torch.cat(rows), expected, atol=2e-4, rtol=1e-4)


@torch.inference_mode()
def test_layers_may_hold_different_lengths_and_roll_back() -> None:
    model = random_model("llama")
    adapter = ModelAdapter(model)
    token_ids = random_prompt(2, 12)
    cache = adapter.new_cache()
    adapter.run_layers(adapter.embed(token_ids[:, :8], 0), 0, 4, cache, 0)
    wrong = random_prompt(3, 3)
    adapter.run_layers(adapter.embed(wrong, 8), 0, 2, cache, 8)
    assert cache.lengths() == [11, 11, 8, 8]
    cache.truncate(8)
    hidden = adapter.run_layers(adapter.embed(token_ids[:, 8:], 8), 0, 4, cache, 8)
    expected = model(token_ids).logits[0, 8:]
    torch.testing.assert_close(adapter.read_head(hidden)[0], expected, atol=1e-5, rtol=1e-5)


def test_building_and_running_an_adapter_changes_nothing_in_the_model() -> None:
    model = random_model("gemma3")
    config, state = copy.deepcopy(model.config.to_dict()), copy.deepcopy(model.state_dict())
    modules = [id(m) for m in model.modules()]
    adapter = ModelAdapter(model)
    with torch.inference_mode():
        adapter.run_layers(adapter.embed(random_prompt(0, 20), 0), 0, 4, adapter.new_cache(), 0)
    assert model.config.to_dict() == config
    assert [id(m) for m in model.modules()] == modules
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), state.values(), strict=True))
