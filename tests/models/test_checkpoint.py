"""Checkpoints as they come: what is missing, misshapen, quantised before or half there is named, never filled in."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from specbound.models.loading import LoadedModel, load_model
from specbound_controller.errors import InputError
from tests.decoding.families import VARIANTS, random_model

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path, tiny_model_dir: Path) -> Path:
    """A copy of the random Llama, to be damaged."""
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


@pytest.fixture
def shards(tmp_path: Path, tiny_model_dir: Path) -> Path:
    """The same in several files with an index."""
    target = tmp_path / "shards"
    AutoModelForCausalLM.from_pretrained(tiny_model_dir).save_pretrained(target, max_shard_size="20KB")
    return with_tokenizer(target, tiny_model_dir)


def with_tokenizer(target: Path, source: Path) -> Path:
    for path in source.glob("tokenizer*"):
        shutil.copy(path, target)
    return target


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """The weights anew, changed."""
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
    change(tensors)
    save_file(tensors, folder / "changed", metadata={"format": "pt"})
    (folder / "changed").replace(folder / WEIGHTS)


def configure(folder: Path, **settings: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def refused(folder: Path, compression: str = "none") -> str:
    with pytest.raises(InputError) as error:
        load_model(str(folder), compression, device="cpu")
    assert "\n" not in str(error.value)
    return str(error.value)


def logits(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        return model(torch.arange(2, 12)[None]).logits


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        ("lm_head.", "lm_head.weight"),
        ("model.embed_tokens.", "model.embed_tokens.weight"),
        ("model.norm.", "model.norm.weight"),
        ("model.layers.2.", "model.layers.2.mlp.down_proj.weight, model.layers.2.mlp.gate_proj.weight and 6 more"),
    ],
)
def test_missing_weights_are_named_and_never_random(folder: Path, lost: str, named: str) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.startswith(lost)]:
            del tensors[name]

    rewrite(folder, change)
    message = refused(folder)
    assert "lacks weights that its config.json asks for" in message and named in message


def test_weights_of_another_shape_are_named_with_both_shapes(folder: Path) -> None:
    configure(folder, vocab_size=80)
    assert "lm_head.weight (64, 32) for (80, 32)" in refused(folder)
    configure(folder, vocab_size=64, num_hidden_layers=5)
    assert "lacks weights" in refused(folder)


@pytest.mark.parametrize("kept", ["lm_head.weight", "model.embed_tokens.weight"])
def test_a_tied_weight_is_not_missing_whichever_stands_there(folder: Path, kept: str) -> None:
    other = {"lm_head.weight": "model.embed_tokens.weight", "model.embed_tokens.weight": "lm_head.weight"}[kept]
    configure(folder, tie_word_embeddings=True)
    rewrite(folder, lambda tensors: tensors.pop(other))
    model = load_model(str(folder)).model
    assert torch.equal(model.get_output_embeddings().weight, load_file(folder / WEIGHTS)[kept])


def test_tied_weights_that_are_both_missing_are_named(folder: Path) -> None:
    configure(folder, tie_word_embeddings=True)
    rewrite(folder, lambda tensors: [tensors.pop(n) for n in ("lm_head.weight", "model.embed_tokens.weight")])
    assert "model.embed_tokens.weight" in refused(folder)


def test_a_head_of_its_own_where_the_config_ties_it_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    configure(folder, tie_word_embeddings=True)
    load_model(str(folder))
    assert "has a head of its own" in caplog.text


def test_a_missing_expert_is_named(tmp_path: Path, tiny_model_dir: Path) -> None:
    from transformers import AutoConfig

    settings = {"num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model("qwen2_moe", **sizes, **settings, num_key_value_heads=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with_tokenizer(tmp_path, tiny_model_dir)
    load_model(str(tmp_path))
    expert = next(name for name in load_file(tmp_path / WEIGHTS) if "experts.1.up_proj" in name)
    rewrite(tmp_path, lambda tensors: tensors.pop(expert))
    assert "model.layers.0.mlp.experts.gate_up_proj" in refused(tmp_path)


@pytest.mark.parametrize("extra", ["bias", "SCB", "weight_scale"])
def test_weights_beside_others_that_need_them_are_refused(folder: Path, extra: str) -> None:
    name = f"model.layers.0.self_attn.q_proj.{extra}"
    rewrite(folder, lambda tensors: tensors.update({name: torch.ones(32)}))
    assert f"has no place for, beside others that need them: {name}" in refused(folder)


def test_weights_of_no_module_are_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    configure(folder, num_hidden_layers=3)
    load_model(str(folder))
    assert "model.layers.3.input_layernorm.weight" in caplog.text and "and 6 more" in caplog.text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(folder: Path, value: float) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    rewrite(folder, lambda tensors: tensors[name].view(-1)[7].fill_(value))
    assert f"not finite at compression none: {name}" in refused(folder)


def test_weights_beyond_a_level_s_range_are_named(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors["lm_head.weight"][3, 3].fill_(1e6))
    load_model(str(folder), "bf16", device="cpu")
    assert "not finite at compression fp16: lm_head.weight" in refused(folder, "fp16")


@pytest.mark.parametrize("family", sorted(VARIANTS))
def test_what_was_saved_whole_is_loaded_without_a_word(
    tmp_path: Path, tiny_model_dir: Path, family: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = random_model(family)
    model.save_pretrained(tmp_path)
    loaded = load_model(str(with_tokenizer(tmp_path, tiny_model_dir)))
    assert not caplog.records
    assert torch.equal(logits(loaded.model), logits(model.eval()))


def test_shards_bin_files_and_an_index_that_names_other_files_give_the_same_model(
    tmp_path: Path, tiny_model_dir: Path, shards: Path
) -> None:
    expected = logits(load_model(str(tiny_model_dir)).model)
    assert torch.equal(logits(load_model(str(shards)).model), expected)
    index = json.loads((shards / INDEX).read_text())
    files = sorted(set(index["weight_map"].values()))
    index["weight_map"] = {name: files[i % len(files)] for i, name in enumerate(index["weight_map"])}
    (shards / INDEX).write_text(json.dumps(index))
    assert torch.equal(logits(load_model(str(shards)).model), expected)
    pickled = Path(shutil.copytree(tiny_model_dir, tmp_path / "bin"))
    torch.save(load_file(pickled / WEIGHTS), pickled / "pytorch_model.bin")
    (pickled / WEIGHTS).unlink()
    assert torch.equal(logits(load_model(str(pickled)).model), expected)


def test_a_shard_that_is_missing_truncated_or_not_in_the_index_is_refused(shards: Path) -> None:
    second = sorted(shards.glob("model-*.safetensors"))[1]
    whole, index = second.read_bytes(), json.loads((shards / INDEX).read_text())
    second.write_bytes(whole[:-10])
    assert second.name in refused(shards)
    second.unlink()
    assert second.name in refused(shards)
    second.write_bytes(whole)
    index["weight_map"] = {name: file for name, file in index["weight_map"].items() if file != second.name}
    (shards / INDEX).write_text(json.dumps(index))
    assert "lacks weights" in refused(shards)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"weight_map": 3}', '{"weight_map": {"lm_head'])
def test_a_damaged_index_is_named(shards: Path, content: str) -> None:
    (shards / INDEX).write_text(content)
    assert INDEX in refused(shards)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (WEIGHTS, b"", WEIGHTS),
        (WEIGHTS, b"<!DOCTYPE html>", WEIGHTS),
        (WEIGHTS, POINTER, f"{WEIGHTS} is a pointer of git-lfs"),
        ("tokenizer.json", POINTER, "tokenizer.json is a pointer of git-lfs"),
        ("tokenizer.json", b'{"version": "1.0", "trunc', "tokenizer of"),
        ("tokenizer.json", b"{}", "tokenizer of"),
        ("tokenizer_config.json", b"{", "tokenizer of"),
        ("config.json", b"", "not a valid JSON file"),
        ("config.json", b"[]", "model_type"),
        ("config.json", b'{"model_type": "llama", "num_hidden_layers": "four"}', "expected int, got str"),
        ("generation_config.json", b'{"eos_token_id": 1', "generation_config.json"),
        ("pytorch_model.bin", b"", "damaged"),
        ("pytorch_model.bin", b"PK\x03\x04 half", "cannot be loaded"),
        ("pytorch_model.bin", b"\x80\x02c__builtin__\nprint\n", "could run code"),
    ],
)
def test_half_a_download_is_one_line(folder: Path, name: str, content: bytes, message: str) -> None:
    if name.endswith(".bin"):
        (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(content)
    assert message in refused(folder)


def test_a_folder_without_a_tokenizer_is_refused(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert "tokenizer of" in refused(folder)


def test_code_of_its_own_is_refused_without_a_question(folder: Path) -> None:
    configure(folder, model_type="mine", auto_map={"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"})
    assert "custom code" in refused(folder)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "awq", "bits": 4}, "awq"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, "compressed-tensors"),
        ({"quant_method": "of tomorrow"}, "of tomorrow"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "quant_method": "bitsandbytes"}, "bitsandbytes fp4"),
        ({}, "a method that its config.json does not name"),
    ],
)
def test_other_quantisations_are_refused_by_name(folder: Path, settings: Mapping[str, object], named: str) -> None:
    configure(folder, quantization_config=settings)
    for compression in ("none", "bf16"):
        assert f"was quantised before it was saved, with {named};" in refused(folder, compression)


@pytest.fixture(scope="module")
def quantised(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders that were saved in int8 and in nf4."""
    pytest.importorskip("bitsandbytes")
    folders = {}
    for level in ("int8", "nf4"):
        folders[level] = tmp_path_factory.mktemp("quantised") / level
        load_model(str(tiny_model_dir), level, device="cpu").model.save_pretrained(folders[level])
        with_tokenizer(folders[level], tiny_model_dir)
    return folders


@pytest.mark.parametrize("held", ["int8", "nf4"])
def test_a_folder_that_was_quantised_before_is_its_own_level_or_refused(
    quantised: Mapping[str, Path], tiny_model_dir: Path, held: str
) -> None:
    for asked in ("none", "bf16", "fp16", "int8", "nf4"):
        if asked != held:
            assert f"compression must be {held}, got '{asked}'" in refused(quantised[held], asked)
    loaded: LoadedModel = load_model(str(quantised[held]), held, device="cpu")
    assert loaded.compression == held
    assert torch.equal(logits(loaded.model), logits(load_model(str(tiny_model_dir), held, device="cpu").model))


@pytest.mark.parametrize("held", ["int8", "nf4"])
def test_quantised_weights_without_their_config_are_refused(
    quantised: Mapping[str, Path], tmp_path: Path, held: str
) -> None:
    lost = Path(shutil.copytree(quantised[held], tmp_path / "lost"))
    configure(lost, quantization_config=None)
    assert "config.json" in refused(lost)


@pytest.mark.parametrize("held", ["int8", "nf4"])
def test_float_weights_whose_config_says_quantised_are_refused(
    quantised: Mapping[str, Path], folder: Path, held: str
) -> None:
    settings = json.loads((quantised[held] / "config.json").read_text())["quantization_config"]
    configure(folder, quantization_config=settings)
    assert f"says it was quantised to {held}, but its weights were not" in refused(folder, held)
