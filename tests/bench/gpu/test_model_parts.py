"""The reference model in parts: each within a call, whole again or refused."""

import json
from pathlib import Path

import pytest

from specbound.bench.gpu import smollm2
from specbound.bench.gpu.finding import Settings
from specbound.bench.gpu.model_parts import ABOUT, MOST_PART_BYTES, PART, QUESTIONS, joined, parts_here, split
from specbound_controller.errors import InputError

CONTENT = bytes(range(256)) * 40


def cut(tmp_path: Path, room: int = 4000) -> list[Path]:
    (tmp_path / "x.gguf").write_bytes(CONTENT)
    (tmp_path / "q.jsonl").write_text("{}\n")
    return split(tmp_path / "x.gguf", tmp_path / "q.jsonl", tmp_path / "parts", room)


def test_parts_fit_a_call_and_make_the_file_again(tmp_path: Path) -> None:
    parts = cut(tmp_path)
    assert all((part / PART).stat().st_size <= min(4000, MOST_PART_BYTES) for part in parts) and len(parts) == 3
    assert (parts[0] / QUESTIONS).read_text() == "{}\n"
    found, count = parts_here(tmp_path / "parts")
    assert found == parts and count == 3
    joined(found, tmp_path / "whole")
    assert (tmp_path / "whole").read_bytes() == CONTENT


def test_a_damaged_part_leaves_no_file_behind(tmp_path: Path) -> None:
    parts = cut(tmp_path)
    (parts[1] / PART).write_bytes(b"other")
    with pytest.raises(InputError, match="carry them again"):
        joined(parts, tmp_path / "whole")
    assert not list(tmp_path.glob("whole*"))


def test_parts_of_two_cuts_are_refused(tmp_path: Path) -> None:
    parts = cut(tmp_path)
    (parts[1] / ABOUT).write_text(json.dumps({"number": 2, "count": 2, "sha256": ""}))
    with pytest.raises(InputError, match="different cuts"):
        parts_here(tmp_path / "parts")


def test_where_a_call_has_no_room_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="room for a sixteenth"):
        cut(tmp_path, room=100)


def test_the_stage_waits_for_all_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = cut(tmp_path)
    monkeypatch.setattr(smollm2, "MODEL_FOLDER", tmp_path / "parts")
    names = [part.name for part in smollm2.parts(Settings(tmp_path))]
    assert names == ["bf16 0", "nf4 0", "int8 0", "bf16 0.7", "nf4 0.7", "int8 0.7"]
    parts[1].rename(tmp_path / "elsewhere")
    assert list(smollm2.parts(Settings(tmp_path))) == [] and "2 of 3 parts" in capsys.readouterr().out
