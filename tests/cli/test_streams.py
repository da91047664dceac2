"""Terminals and pipes: no text is lost, whatever the encoding, the width, and whoever reads."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from specbound.cli.edge import hand_over, show
from specbound.cli.main import main
from specbound.cli.streams import input_lines, input_text, prepare_streams, tell, unicode_text
from specbound.results.tables import Cells, markdown
from specbound_controller.errors import InputError

TABLE = Cells("a title", ("content", "speed\nper s"), [(f"task {i}" * 9, "12.3 ± 4") for i in range(3)], num_texts=1)


def written(monkeypatch: pytest.MonkeyPatch, encoding: str, write: Callable[[], object]) -> bytes:
    """What a function leaves on a standard output of an encoding."""
    content = io.BytesIO()
    stream = io.TextIOWrapper(content, encoding=encoding)
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", stream)
        prepare_streams()
        write()
        stream.flush()
    return content.getvalue()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "cp437", "shift-jis", "utf-8"])
def test_every_encoding_takes_every_text(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    text = written(monkeypatch, encoding, lambda: show("a – b · 12 ± 3 ≈ 你好 \udce9")).decode(encoding)
    for character, plain in zip("–·±≈你", ("-", "-", "+-", "~", r"\u4f60"), strict=True):
        assert character in text or plain in text
    assert r"\udce9" in text


@pytest.mark.parametrize("columns", ["10", "30", "80", "200"])
def test_tables_are_whole_at_every_width(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("NO_COLOR", "1")
    lines = written(monkeypatch, "utf-8", lambda: show(TABLE)).decode().splitlines()
    for content, speed in TABLE.rows:
        assert any(content in line and speed in line for line in lines)
    assert not any("…" in line for line in lines)


def test_names_that_look_like_markup_are_names(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("[bold]", "[/x]", "a :cat: b", "x|y")
    table = Cells("[/title]", ("content",), [(name,) for name in names])
    text = written(monkeypatch, "utf-8", lambda: show(table)).decode()
    assert all(name in text for name in (*names, "[/title]"))
    assert r"| x\|y |" in markdown(table)


class _Broken(io.RawIOBase):
    def __init__(self, error: OSError) -> None:
        self.error = error

    def writable(self) -> bool:
        return True

    def write(self, content: object) -> int:
        raise self.error


def test_the_report_is_written_although_nobody_reads_the_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BufferedWriter(_Broken(BrokenPipeError()), 1)))
    with pytest.raises(BrokenPipeError):
        hand_over(str(tmp_path / "report.json"), lambda: (show(TABLE), sys.stdout.flush()), [], {"name": "x"})
    assert json.loads((tmp_path / "report.json").read_text())["model"] == {"name": "x"}
    monkeypatch.undo()


def test_work_goes_on_where_nobody_reads_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("sys.stderr", io.TextIOWrapper(io.BufferedWriter(_Broken(BrokenPipeError()), 1)))
        tell("half")
        patch.setattr("sys.stderr", None)
        tell("half")


def test_a_progress_bar_that_nobody_sees_does_not_end_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    from specbound_profiling.progress import RecordingBar

    with monkeypatch.context() as patch:
        patch.setattr("sys.stderr", io.TextIOWrapper(io.BufferedWriter(_Broken(BrokenPipeError()), 1)))
        with RecordingBar("none", 1, 2) as bar:
            bar.token(2)
            bar.prompt()


def shell(command: str, tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A command of bash, with `specbound` as this Python's own."""
    line = f"set -o pipefail; specbound() {{ '{sys.executable}' -m specbound \"$@\"; }}; {command}"
    return subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(
    ("command", "code", "output", "errors"),
    [
        ("specbound --help", 0, b"commands:", b""),
        ("specbound --help | head -n 1", 0, b"usage:", b""),
        ("specbound --help | true", 0, b"", b""),
        ("specbound --help >&-", 0, b"", b"commands:"),
        ("specbound --help >&- 2>&-", 0, b"", b""),
        ("specbound --help > /dev/full", 1, b"", b"No space left on device"),
        ("specbound none 2>&-", 2, b"", b""),
        ("specbound none 2> /dev/full", 2, b"", b""),
        ("specbound generate --prompt - <&-", 2, b"", b"specbound: error: standard input is closed"),
        ("specbound generate --policy", 2, b"", b"specbound: error: "),
    ],
)
def test_streams_that_are_closed_full_or_not_read(
    tmp_path: Path, command: str, code: int, output: bytes, errors: bytes
) -> None:
    done = shell(command, tmp_path)
    assert (done.returncode, output in done.stdout, errors in done.stderr) == (code, True, True), done
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr
    assert not list(tmp_path.iterdir())


class _Input(io.TextIOWrapper):
    def __init__(self, content: bytes, encoding: str) -> None:
        super().__init__(io.BytesIO(content), encoding=encoding)


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        ("café\n".encode(), "utf-8"),
        ("café\n".encode(), "ascii"),
        ("café\n".encode("utf-8-sig"), "utf-8"),
        ("café\n".encode("utf-16"), "utf-8"),
        ("café\n".encode("utf-16"), "latin-1"),
        ("café\n".encode("latin-1"), "latin-1"),
    ],
)
def test_standard_input_is_read_as_it_was_meant(monkeypatch: pytest.MonkeyPatch, content: bytes, encoding: str) -> None:
    monkeypatch.setattr("sys.stdin", _Input(content, encoding))
    assert input_text() == "café\n"


def test_standard_input_that_is_no_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", _Input(b"the\ncaf\xe9 cat", "utf-8"))
    with pytest.raises(InputError, match="standard input:2: text must be UTF-8 or UTF-16, got the byte 0xe9"):
        input_text()
    monkeypatch.setattr("sys.stdin", _Input(b"caf\xe9 cat", "utf-8"))
    with pytest.raises(InputError, match="standard input must be utf-8 text"):
        list(input_lines())
    monkeypatch.setattr("sys.stdin", None)
    for read in (input_text, lambda: list(input_lines())):
        with pytest.raises(InputError, match="standard input is closed"):
            read()


def test_messages_are_the_lines_that_hold_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", _Input("\ufeffone\r\n\n  \n  two \n".encode(), "utf-8"))
    assert list(input_lines()) == ["one", "  two"]


def test_an_argument_of_another_encoding_is_refused_and_utf_8_is_read() -> None:
    assert unicode_text("caf\udcc3\udca9", "--prompt") == "café"
    with pytest.raises(InputError, match=r"--prompt must be text in the terminal's encoding, got '\\udce9'"):
        unicode_text("caf\udce9", "--prompt")
    assert main(["generate", "--prompt", "caf\udce9", "--policy", "plain"]) == 2
