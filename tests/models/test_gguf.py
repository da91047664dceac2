"""GGUF files: what is loaded is what the file holds, at every level; every bad file is one line."""

import importlib.util
from pathlib import Path

import pytest
import torch

from specbound.cli.main import main
from specbound.models import gguf as stage
from specbound.models.loading import load_model, load_tokenizer
from specbound_controller.errors import InputError, MissingExtraError

pytest.importorskip("gguf")
pytest.importorskip("accelerate")

from gguf import GGMLQuantizationType as Kind

from tests.models.gguf_files import quantised, source_model, write_gguf


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.Q4_1.gguf")


@pytest.fixture(scope="module")
def folder(file: Path) -> Path:
    """The file, converted."""
    folder = file.parent / "converted"
    assert main(("convert", str(file), str(folder))) == 0
    return folder


def refused(name: str) -> str:
    with pytest.raises(InputError) as error:
        load_model(name)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_weights_are_those_of_the_source_as_far_as_the_file_keeps_them(file: Path) -> None:
    loaded = load_model(str(file))
    state = loaded.model.state_dict()
    for name, weight in source_model().state_dict().items():
        expected = weight if weight.ndim == 1 else torch.from_numpy(quantised(weight.numpy(), Kind.Q4_1))
        torch.testing.assert_close(state[name], expected, rtol=0, atol=1e-6, msg=name)
    assert loaded.model.config.eos_token_id == 256 and not loaded.model.training


def test_output_is_that_of_the_source_model(tmp_path: Path) -> None:
    loaded = load_model(str(write_gguf(tmp_path / "f32.gguf", kind=Kind.F32)))
    ids = loaded.tokenizer("the man in the tin", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(ids).logits, source_model()(ids).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("compression", ["none", "bf16", "fp16", "int8", "nf4"])
def test_every_level_equals_that_of_the_converted_copy(file: Path, folder: Path, compression: str) -> None:
    if compression in ("int8", "nf4"):
        pytest.importorskip("bitsandbytes")
    ids = torch.tensor([[257, 40, 41, 42, 256, 258]])
    of_file, of_folder = (load_model(str(name), compression, device="cpu") for name in (file, folder))
    with torch.no_grad():
        assert torch.equal(of_file.model(ids).logits, of_folder.model(ids).logits)
    assert of_file.model.dtype == of_folder.model.dtype
    template = "<|user|>Hi<|end|><|assistant|>"
    for loaded in (of_file, of_folder):
        message = [{"role": "user", "content": "Hi"}]
        assert loaded.tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False) == template
        assert (
            loaded.tokenizer(template)["input_ids"]
            == loaded.tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=True)["input_ids"]
        )


def test_tokenizer_alone_is_the_same(file: Path) -> None:
    text = "the thin man, in 1 café\n"
    assert load_tokenizer(str(file)).decode(load_tokenizer(str(file))(text)["input_ids"]) == text


def test_generate_takes_a_file_and_a_folder_with_the_files_name(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--raw", "--prompt", "the man", "--max-new-tokens", "6")
    assert main(("generate", "--model", str(file), *options)) == 0
    printed = capsys.readouterr().out
    assert main(("generate", "--model", str(file.parent), "--gguf-file", file.name, *options)) == 0
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--model", "folder", "--gguf-file", "x.bin"), "gguf_file must be a file that ends with .gguf, got 'x.bin'"),
        (("--gguf-file", "x.gguf"), "gguf_file needs a folder or a Hugging Face name as model, got 'demo'"),
        (("--model", "nowhere", "--gguf-file", "x.gguf"), "model path 'nowhere/x.gguf' does not exist"),
        (("--model", "some/body", "--gguf-file", "x.gguf"), "model 'some/body/x.gguf' cannot be fetched from the Hub"),
    ],
)
def test_a_file_that_is_not_there_is_one_line(
    options: tuple[str, ...], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(("generate", "--prompt", "a", *options)) == 2
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"PK\x03\x04 something else")
    assert "is not a GGUF file: it begins with b'PK\\x03\\x04'" in refused(str(tmp_path / "x.gguf"))
    (tmp_path / "empty.gguf").write_bytes(b"")
    assert "is not a GGUF file" in refused(str(tmp_path / "empty.gguf"))


@pytest.mark.parametrize("share", [0.0003, 0.05, 0.3, 0.7, 0.999])
def test_a_truncated_file_is_refused(file: Path, tmp_path: Path, share: float) -> None:
    content = file.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[: int(len(content) * share)])
    assert "the file is damaged or not complete" in refused(str(tmp_path / "cut.gguf"))


def test_an_unknown_architecture_is_named(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf", architecture="warp")
    assert "warp" in refused(str(path)) and "not supported" in refused(str(path))


def test_a_file_without_a_weight_is_refused_instead_of_filled_with_noise(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf", without="blk.1.ffn_up.weight")
    assert "1 weights are missing, model.layers.1.mlp.up_proj.weight among them" in refused(str(path))


def test_missing_packages_are_named_with_the_extra(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(stage.importlib.util, "find_spec", lambda name: None if name == "gguf" else real(name))
    with pytest.raises(MissingExtraError, match=r"pip install 'specbound\[gguf\]'"):
        load_model(str(file))


def test_convert_refuses_a_folder_that_exists_and_leaves_nothing_half_written(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(("convert", str(file), str(tmp_path))) == 2
    assert "out must be a folder that does not exist yet" in capsys.readouterr().err

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stage.PreTrainedModel, "save_pretrained", full)
    assert main(("convert", str(file), str(tmp_path / "new"))) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_convert_names_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(("convert", "demo", "out")) == 2
    assert "model must be a file that ends with .gguf, got 'demo'" in capsys.readouterr().err
    assert main(("convert", "x.gguf")) == 2
    assert "--out is required" in capsys.readouterr().err
