"""Wheels that travel: cut to what the machine uses, and still wheels."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from specbound.bench.gpu import carried
from specbound.bench.gpu.carried import WHEELS, Wheel, cut, install, pinned
from specbound_controller.errors import InputError

WHEEL = Wheel("fakebits", "fakebits", "nobody", ("cpu", "cuda130"))


def fake_wheel(folder: Path) -> Path:
    path, info = folder / "fakebits-1.0-py3-none-any.whl", "fakebits-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("fakebits/__init__.py", "VALUE = 7\n")
        for name in ("cpu", "cuda118", "cuda130"):
            file.writestr(f"fakebits/libfakebits_{name}.so", name * 1000)
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: fakebits\nVersion: 1.0\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "fakebits/__init__.py,,\n")
    return path


def test_a_cut_wheel_is_installed_without_what_was_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, folder = fake_wheel(tmp_path), tmp_path / "carried"
    folder.mkdir()
    cut(source, folder / source.name, WHEEL)
    monkeypatch.setattr(carried, "WHEELS", (WHEEL,))
    monkeypatch.setattr(carried, "FOLDER", folder)
    monkeypatch.setattr(carried, "SITE", tmp_path / "site")
    assert install() == [str(tmp_path / "site")]
    names = {path.name for path in (tmp_path / "site" / "fakebits").iterdir() if path.suffix in (".py", ".so")}
    assert names == {"__init__.py", "libfakebits_cpu.so", "libfakebits_cuda130.so"}
    code = f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); import fakebits; assert fakebits.VALUE == 7"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_wheel_without_a_library_that_is_wanted_is_refused_by_name(tmp_path: Path) -> None:
    wheel = Wheel("fakebits", "fakebits", "nobody", ("cuda999",))
    with pytest.raises(InputError, match="libfakebits_cuda999"):
        cut(fake_wheel(tmp_path), tmp_path / "cut.whl", wheel)


def test_what_is_missing_and_was_not_carried_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(carried, "WHEELS", (WHEEL,))
    monkeypatch.setattr(carried, "FOLDER", tmp_path)
    assert install() == []
    assert "fakebits is not here and was not carried" in capsys.readouterr().out


def test_a_wheel_that_pip_refuses_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carried, "WHEELS", (WHEEL,))
    monkeypatch.setattr(carried, "FOLDER", tmp_path)
    monkeypatch.setattr(carried, "SITE", tmp_path / "site")
    (tmp_path / "fakebits-1.0-py3-none-any.whl").write_bytes(b"no archive")
    with pytest.raises(InputError, match="carried wheels cannot be installed"):
        install()


def test_every_wheel_has_a_version_that_was_tested() -> None:
    assert all(pinned(wheel.package).startswith(f"{wheel.package}==") for wheel in WHEELS)
    with pytest.raises(InputError, match="must name a version of nothing"):
        pinned("nothing")


def test_the_model_is_packed_where_it_is_installed_and_else_what_is_missing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(carried, "MODEL_FOLDER", tmp_path / "parts")
    monkeypatch.setattr(carried, "MODEL_PACKAGE", "fake_smol")
    monkeypatch.syspath_prepend(str(tmp_path))
    questions = tmp_path / "question.jsonl"
    questions.write_text("{}\n")
    assert carried.pack_model(questions, 3000) == [] and "make smollm2" in capsys.readouterr().out
    (tmp_path / "fake_smol").mkdir()
    (tmp_path / "fake_smol" / "m.gguf").write_bytes(bytes(5000))
    assert carried.pack_model(None, 3000) == [] and "--questions FILE" in capsys.readouterr().out
    assert [path.name for path in carried.pack_model(questions, 3000)] == ["part-1-of-2", "part-2-of-2"]
