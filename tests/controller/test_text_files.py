"""Text of any encoding is read as meant, and whatever is none is one line with file and line."""

import gzip
from pathlib import Path

import pytest

from specbound_controller.errors import InputError
from specbound_controller.text_files import is_unicode, numbered_lines, read_json, read_text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32-be"])
def test_encodings_give_the_same_value(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes('{"größe": 1}'.encode(encoding))
    assert read_json(path) == {"größe": 1}
    path.write_bytes(gzip.compress('{"größe": 1}'.encode(encoding)))
    assert read_json(path) == {"größe": 1}


def test_lines_keep_their_numbers() -> None:
    assert list(numbered_lines("a\r\n\r\n b \rc\n\u2028d")) == [(1, "a"), (3, " b "), (4, "c"), (5, "\u2028d")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"x\.json:1 is damaged JSON"),
        (b'{\n"a": 1,\n"b"', r"x\.json:3 is damaged JSON"),
        (b"\n\xff", r"x\.json:2: text must be UTF-8 or UTF-16, got the byte 0xff"),
        (b"[" * 100_000, r"x\.json is damaged JSON"),
        (b"9" * 5000, r"x\.json is damaged JSON"),
        (b"\x1f\x8b", r"x\.json cannot be decompressed"),
    ],
)
def test_damage_is_one_line_with_its_place(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_json(tmp_path / "x.json")
    assert "\n" not in str(caught.value)


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none", tmp_path / ("x" * 400), Path("nul\0l")):
        with pytest.raises(InputError, match="cannot be read"):
            read_text(path)


def test_halves_of_characters_are_seen() -> None:
    assert is_unicode("caf\u00e9 \U0001f600") and not is_unicode("caf\udce9")
