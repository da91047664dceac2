"""`specbound export-generate`: transformers' own generate decodes with specbound, and gives its own output."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from specbound.cli.main import main
from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.inside import decoder_inside
from specbound_controller.policy import StaticPolicy

IDS = torch.tensor([[5, 6, 7, 8]])
SETTINGS: dict[str, Any] = {"max_new_tokens": 20, "eos_token_id": None, "pad_token_id": 1, "do_sample": False}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[SpecBoundDecoder]:
    """Every decoder that was called."""
    found: list[SpecBoundDecoder] = []
    own: Callable[..., Any] = SpecBoundDecoder.__call__

    def call(decoder: SpecBoundDecoder, *given: Any, **arguments: Any) -> Any:
        found.append(decoder)
        return own(decoder, *given, **arguments)

    monkeypatch.setattr(SpecBoundDecoder, "__call__", call)
    return found


def test_one_line_inside_transformers_decodes_with_specbound(
    tiny_model_dir: Path, tmp_path: Path, calls: list[SpecBoundDecoder], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export-generate", str(tmp_path / "out"), "--policy", "plain"]) == 0
    assert "custom_generate=" in capsys.readouterr().out
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    decoder_inside(model, "plain", "token").policy = StaticPolicy(exit_layers=(2,), threshold=0.01, w_max=3)
    expected = model.generate(input_ids=IDS, **SETTINGS)
    found = model.generate(input_ids=IDS, custom_generate=str(tmp_path / "out"), trust_remote_code=True, **SETTINGS)
    assert found.tolist() == expected.tolist() and len(calls) == 1
    assert model.generate(IDS, custom_generate=str(tmp_path / "out"), trust_remote_code=True, **SETTINGS).tolist() == (
        expected.tolist()
    )
    assert len(set(map(id, calls))) == 1  # made once


def test_the_policy_that_was_exported_drafts(
    tiny_model_dir: Path, tmp_path: Path, calls: list[SpecBoundDecoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "exported_policy.py").write_text(
        "from specbound import StaticPolicy\n\n\nclass Two(StaticPolicy):\n    def __init__(self):\n"
        "        super().__init__((2,), 0.0, 2)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "out"
    assert main(["export-generate", str(out), "--policy", "exported_policy:Two"]) == 0
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    expected = model.generate(input_ids=IDS, **SETTINGS)
    found = model.generate(input_ids=IDS, custom_generate=str(out), trust_remote_code=True, **SETTINGS)
    assert found.tolist() == expected.tolist()
    assert [type(decoder.policy).__name__ for decoder in calls] == ["Two"]


def test_without_trust_nothing_is_run(tiny_model_dir: Path, tmp_path: Path) -> None:
    main(["export-generate", str(tmp_path), "--policy", "plain"])
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    with pytest.raises(ValueError, match="trust_remote_code"):
        model.generate(input_ids=IDS, custom_generate=str(tmp_path), trust_remote_code=False, **SETTINGS)


def test_a_model_folder_with_it_decodes_so_by_itself(
    tiny_model_dir: Path, tmp_path: Path, calls: list[SpecBoundDecoder]
) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    assert main(["export-generate", str(folder), "--policy", "plain", "--exactness", "bitwise"]) == 0
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    plain = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    assert model.generate(input_ids=IDS, **SETTINGS).tolist() == plain.generate(input_ids=IDS, **SETTINGS).tolist()
    assert model.generate(IDS, **SETTINGS).tolist() == plain.generate(IDS, **SETTINGS).tolist()
    assert len(calls) == 2 and calls[0].exactness == "bitwise"


def test_code_of_others_is_not_replaced_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "custom_generate").mkdir()
    (tmp_path / "custom_generate" / "generate.py").write_text("mine")
    assert main(["export-generate", str(tmp_path)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "custom_generate" / "generate.py").read_text() == "mine"
    assert main(["export-generate", str(tmp_path), "--overwrite"]) == 0
    assert main(["export-generate", str(tmp_path / "x"), "--policy", "nobody"]) == 2
    assert not (tmp_path / "x").exists()
