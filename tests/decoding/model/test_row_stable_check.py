"""The self-test of the bitwise level: passes row-stable twins, refuses models whose rows depend on each other."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.model.row_stable import row_stable_model
from specbound.decoding.model.row_stable_check import check_row_stable
from specbound_controller.errors import UnsupportedModelError
from tests.decoding.families import COMMON, random_model


def test_self_test_accepts_twins_and_refuses_the_models_themselves_by_name() -> None:
    model = random_model("llama", dtype=torch.bfloat16)
    check_row_stable(ModelAdapter(row_stable_model(model)))
    with pytest.raises(UnsupportedModelError, match=r"LlamaForCausalLM.* on cpu with \d+ threads in bfloat16.* rows"):
        check_row_stable(ModelAdapter(model))


def test_self_test_reaches_past_a_small_sliding_window() -> None:
    """Damage that only the tokens past the window feel is found."""
    config = AutoConfig.for_model("mistral", **{**COMMON, "num_hidden_layers": 2, "sliding_window": 50})
    adapter = ModelAdapter(row_stable_model(AutoModelForCausalLM.from_config(config).eval()))
    check_row_stable(adapter)
    attend, window = adapter.layers[0].self_attn, adapter.window
    assert window is not None
    forward = type(attend).forward

    def damaged(hidden_states: Tensor, **arguments: Any) -> tuple[Tensor, Any]:
        output, weights = forward(attend, hidden_states, **arguments)
        late = hidden_states.shape[1] > 1 and int(arguments["position_ids"].max()) > window + 1
        return output * (1.5 if late else 1.0), weights

    attend.__dict__["forward"] = damaged
    adapter.refresh()
    with pytest.raises(UnsupportedModelError):
        check_row_stable(adapter)


def test_self_test_passes_with_two_threads() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        for dtype in (torch.float32, torch.bfloat16):
            check_row_stable(ModelAdapter(row_stable_model(random_model("llama", num_layers=2, dtype=dtype))))
    finally:
        torch.set_num_threads(threads)
