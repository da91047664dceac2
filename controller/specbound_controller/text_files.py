"""Text files as tools write them: any UTF with its byte order mark, any line ends, compressed or not. Knows no content.

Other modules say what a file is for; here stand only its name, its line, and why it cannot be read.
"""

import bz2
import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from specbound_controller.errors import InputError

COMPRESSED: Mapping[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": gzip.decompress,
    b"BZh": bz2.decompress,
    b"\xfd7zXZ\x00": lzma.decompress,
}
"""How a compressed file begins, and what reads it."""
NO_TEXT: Mapping[bytes, str] = {
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"PK\x03\x04": "a zip archive",
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow",
    b"\x89PNG": "a picture",
    b"%PDF": "PDF",
}
"""How files begin that are often handed over in place of text."""


def read_text(path: Path) -> str:
    """The whole text, without its byte order mark; line ends as they are.

    Raises:
        InputError: it cannot be opened, or is no UTF-8, UTF-16 or UTF-32 text; file and line are named.
    """
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    for start, decompress in COMPRESSED.items():
        if content.startswith(start):
            try:
                content = decompress(content)
            except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
                raise InputError(f"{path} cannot be decompressed: {error}") from None
    for start, kind in NO_TEXT.items():
        if content.startswith(start):
            raise InputError(f"{path} cannot be read as text: it is {kind}")
    return decoded(content, str(path))


def decoded(content: bytes, where: str) -> str:
    """Bytes as text. Raises InputError that names `where` and the line for bytes that are none."""
    encoding = json.detect_encoding(content)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        bad = content[error.start : error.start + 1].hex()
        raise InputError(f"{where}:{line}: text must be UTF-8 or UTF-16, got the byte 0x{bad}") from None
    return text.removeprefix("\ufeff")


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with their numbers from 1, blank ones left out; ends of Unix, Windows and old Mac files."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return ((number, line) for number, line in enumerate(lines, start=1) if line.strip())


def parse_json(text: str, where: str) -> Any:
    """The value of a JSON text. Raises InputError that names `where` and the line for what is none."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}:{error.lineno} is damaged JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets in brackets
        raise InputError(f"{where} is damaged JSON: {error}") from None


def read_json(path: Path) -> Any:
    """The value of a JSON file. Raises InputError, with file and line, where it is none."""
    return parse_json(read_text(path), str(path))


def is_unicode(text: str) -> bool:
    """Whether no half of a character stands in it, which no encoding, tokenizer or file can take."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
