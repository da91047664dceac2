"""What is refused: models that cannot be run exactly, by name and with the reason."""

import pytest
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BertConfig,
    BertLMHeadModel,
    LlamaModel,
    PreTrainedModel,
)

from specbound.decoding.model.adapter import ModelAdapter
from specbound_controller.errors import UnsupportedModelError


def refused(model: object) -> str:
    with pytest.raises(UnsupportedModelError) as error:
        ModelAdapter(model)
    assert "\n" not in str(error.value)
    return str(error.value)


def small(model_type: str, **settings: object) -> PreTrainedModel:
    common = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    config = AutoConfig.for_model(model_type, **(common | {"num_attention_heads": 2} | settings))
    return AutoModelForCausalLM.from_config(config).eval()


def test_models_that_cannot_be_run_exactly_are_refused_by_name_with_the_reason() -> None:
    t5 = AutoConfig.for_model("t5", vocab_size=50, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    assert "encoder-decoder" in refused(AutoModelForSeq2SeqLM.from_config(t5).eval())
    bert = BertConfig(vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    assert "'bert'" in refused(BertLMHeadModel(bert).eval())
    assert "'bloom'" in refused(small("bloom"))
    assert "training mode" in refused(small("llama").train())
    assert "nn.Module" not in refused(object()) and "object" in refused(object())
    assert "head" in refused(LlamaModel(small("llama").config).eval())


def test_recurrent_layers_are_refused_because_their_state_cannot_be_rolled_back() -> None:
    model = small("qwen3_next", num_key_value_heads=2, head_dim=8, num_experts=2, num_experts_per_tok=1)
    assert "linear_attention" in refused(model) and "rolled back" in refused(model)


def test_rotary_embeddings_that_change_with_the_length_are_refused() -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    assert "'dynamic'" in refused(small("llama", rope_parameters=rope))


def test_other_attention_kernels_are_refused() -> None:
    model = small("llama")
    model.config._attn_implementation = "flex_attention"
    assert "flex_attention" in refused(model)
