"""Loading: one clear line for what cannot be loaded, at once; the fingerprint names the model, not its dtype."""

import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig, BertModel, T5Config, T5ForConditionalGeneration

from specbound.models.fingerprint import model_fingerprint
from specbound.models.loading import load_model
from specbound_controller.errors import InputError
from specbound_controller.fingerprint import same_model
from tests.decoding.families import random_model


def refused(name: str, compression: str = "none") -> str:
    started = time.perf_counter()
    with pytest.raises(InputError) as error:
        load_model(name, compression)
    assert time.perf_counter() - started < 5.0  # no network retries
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("path", ["/no/such/model", "./no-such-model", "no/such/deep/model", "~/no-such-model"])
def test_a_path_that_does_not_exist_is_refused_at_once(path: str) -> None:
    assert f"model path '{path}' does not exist" in refused(path)


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    assert "config.json" in refused(str(tmp_path))


def test_models_of_other_tasks_are_refused_by_architecture(tmp_path: Path) -> None:
    bert = BertConfig(vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    BertModel(bert).save_pretrained(tmp_path / "bert")
    assert "must be a causal language model, got BertModel" in refused(str(tmp_path / "bert"))
    t5 = T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(t5).save_pretrained(tmp_path / "t5")
    assert "T5ForConditionalGeneration" in refused(str(tmp_path / "t5"))


def test_an_unknown_compression_is_refused_with_the_known_ones() -> None:
    assert refused("demo", "int3") == "compression must be one of none, bf16, fp16, int8, nf4, got 'int3'"


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="device 'gpu' cannot be used"):
        load_model("demo", device="gpu")


def test_truncated_weights_are_one_line(tmp_path: Path) -> None:
    random_model("llama").save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert "cannot be loaded" in refused(str(tmp_path))


def test_a_hub_id_that_is_not_cached_is_one_line_offline() -> None:
    assert "cannot be loaded" in refused("nobody/no-such-model")


@pytest.mark.parametrize("compression", ["none", "bf16", "fp16", "int8", "nf4"])
def test_the_demonstration_model_loads_at_every_compression_with_one_fingerprint(compression: str) -> None:
    if compression in ("int8", "nf4"):
        pytest.importorskip("bitsandbytes")
    loaded = load_model("demo", compression, device="cpu")
    assert not loaded.model.training
    assert same_model(model_fingerprint(loaded.model), model_fingerprint(load_model("demo", device="cpu").model))


def test_the_fingerprint_survives_saving_and_casting_and_tells_a_fine_tune_apart(tmp_path: Path) -> None:
    model = random_model("llama")
    fingerprint = model_fingerprint(model)
    model.save_pretrained(tmp_path)
    assert model_fingerprint(AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)) == fingerprint
    assert model_fingerprint(random_model("llama", seed=1)) != fingerprint
    assert model_fingerprint(random_model("llama", num_layers=3)) != fingerprint
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(-1)
    assert model_fingerprint(model) != fingerprint
