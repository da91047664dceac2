"""Models in the wrappers of other libraries: they work or are refused by name."""

import copy
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from specbound.decoding.decoder import SpecBoundDecoder
from specbound_controller.errors import UnsupportedModelError
from specbound_controller.policy import StaticPolicy
from tests.decoding.families import random_model, random_prompt

PROMPT = random_prompt(0, 7)


def plain(model: PreTrainedModel) -> torch.Tensor:
    return model.generate(input_ids=PROMPT, max_new_tokens=24, do_sample=False)


def decoder(model: PreTrainedModel) -> SpecBoundDecoder:
    return SpecBoundDecoder(model, StaticPolicy((1, 2), (0.1, 0.0), 4))


def test_a_compiled_model_decodes_with_its_own_layers() -> None:
    model = random_model("llama")
    compiled = torch.compile(model, backend="eager")
    expected = plain(model)
    assert torch.equal(decoder(compiled).generate(PROMPT, max_new_tokens=24), expected)
    inside = compiled.generate(PROMPT, max_new_tokens=24, do_sample=False, custom_generate=decoder(compiled))
    assert torch.equal(inside, expected)


def test_layers_that_are_compiled_in_place_work() -> None:
    model = random_model("llama", num_layers=2)
    expected = plain(model)
    for layer in model.model.layers:
        layer.compile(backend="eager")
    output = SpecBoundDecoder(model, StaticPolicy((1,), 0.0, 2)).generate(PROMPT, max_new_tokens=24)
    assert torch.equal(output, expected)


def test_a_lora_model_decodes_with_its_adapter() -> None:
    peft = pytest.importorskip("peft")
    base = random_model("llama")
    without = plain(base)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    model = peft.get_peft_model(copy.deepcopy(base), config).eval()
    expected = plain(model)
    assert not torch.equal(expected, without)
    own = decoder(model)
    assert torch.equal(own.generate(PROMPT, max_new_tokens=24), expected)
    inside = model.generate(input_ids=PROMPT, max_new_tokens=24, do_sample=False, custom_generate=own)
    assert torch.equal(inside, expected)
    with model.disable_adapter():
        assert torch.equal(own.generate(PROMPT, max_new_tokens=24), without)


def test_prompt_tuning_is_refused_by_name() -> None:
    peft = pytest.importorskip("peft")
    config = peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    model = peft.get_peft_model(random_model("llama"), config).eval()
    with pytest.raises(UnsupportedModelError, match="PROMPT_TUNING"):
        SpecBoundDecoder(model)


@pytest.mark.parametrize("offloaded", ["model.layers.2", "model.embed_tokens", "lm_head"])
def test_a_split_model_works_unless_its_embedding_or_head_is_offloaded(tmp_path: Path, offloaded: str) -> None:
    accelerate = pytest.importorskip("accelerate")
    model = random_model("llama")
    expected = plain(model)
    layers = [f"model.layers.{i}" for i in range(4)]
    parts = ["model.embed_tokens", *layers, "model.norm", "model.rotary_emb", "lm_head"]
    devices = {part: "disk" if part == offloaded else "cpu" for part in parts}
    split = accelerate.dispatch_model(model, devices, offload_dir=tmp_path, main_device="cpu", force_hooks=True)
    if offloaded == "model.layers.2":
        assert split.model.layers[2].self_attn.q_proj.weight.is_meta
        assert torch.equal(decoder(split).generate(PROMPT, max_new_tokens=24), expected)
    else:
        with pytest.raises(UnsupportedModelError, match="offloaded"):
            SpecBoundDecoder(split)
