"""Rows of a file or a data set as they come, each with the place where it stands. Knows no prompt.

JSON lines, a JSON list, CSV, TSV and Parquet; text in any UTF, compressed or not (`specbound_controller.text_files`).
"""

import csv
import io
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from specbound_controller.errors import InputError, MissingExtraError
from specbound_controller.text_files import numbered_lines, read_text

SEPARATORS = {".csv": ",", ".tsv": "\t"}
"""File name's end -> what stands between two columns."""
PARQUET = ".parquet"


@dataclass(frozen=True, slots=True)
class PlacedRow:
    """One row of a source."""

    values: Mapping[str, object]
    number: int
    """Line of a text file, else place in the source; from 1."""
    where: str
    """For a message: `FILE:LINE`, or the row of a data set."""


def file_rows(path: Path) -> Iterator[PlacedRow]:
    """Rows of a file: Parquet, CSV and TSV by the end of its name, otherwise JSON lines or one JSON list.

    Raises:
        InputError: it cannot be read, or holds something else; file and line are named.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]  # prompts.csv.gz
    if suffixes[-1:] == [PARQUET]:
        return _parquet_rows(path)
    text = read_text(path)
    separator = next((SEPARATORS[suffix] for suffix in suffixes if suffix in SEPARATORS), None)
    if separator is not None:
        return _csv_rows(text, separator, path)
    return _list_rows(text, path) if _is_list(text) else _line_rows(text, path)


def _line_rows(text: str, path: Path) -> Iterator[PlacedRow]:
    for number, line in numbered_lines(text):
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{where}: a line must be a JSON object, got {error.msg} at {error.pos}") from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: a line must be a JSON object, but {error}") from None
        yield _object(row, number, where, "a line")


def _is_list(text: str) -> bool:
    """Whether the whole text is one JSON list of objects, as pandas writes it."""
    return re.match(r"\s*\[\s*\{", text) is not None


def _list_rows(text: str, path: Path) -> Iterator[PlacedRow]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: a JSON list must be whole, got {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: a JSON list must be whole, but {error}") from None
    for number, row in enumerate(rows, start=1):
        yield _object(row, number, f"{path}, entry {number}", "an entry")


def _object(row: object, number: int, where: str, what: str) -> PlacedRow:
    if not isinstance(row, dict):
        raise InputError(f"{where}: {what} must be a JSON object, got {type(row).__name__}")
    return PlacedRow(row, number, where)


def _csv_rows(text: str, separator: str, path: Path) -> Iterator[PlacedRow]:
    """An empty cell is an absent value: CSV knows no other."""
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    with _fields_of_any_length():
        try:
            names = reader.fieldnames or ()
            if len(set(names)) < len(names):
                twice = next(name for name in names if list(names).count(name) > 1)
                raise InputError(f"{path}:{reader.line_num}: columns must have different names, got {twice!r} twice")
            for values in reader:
                if None in values:
                    raise InputError(f"{path}:{reader.line_num}: a row must have {len(names)} columns")
                yield PlacedRow(values, reader.line_num, f"{path}:{reader.line_num}")
        except csv.Error as error:
            raise InputError(f"{path}:{reader.line_num}: a row must be CSV, got {error}") from None


@contextmanager
def _fields_of_any_length() -> Iterator[None]:
    """csv refuses fields of more than 128 KiB, by a limit of the whole process."""
    limit = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _parquet_rows(path: Path) -> Iterator[PlacedRow]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise MissingExtraError("a Parquet file as prompts", "profile") from None
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for values in batch.to_pylist():
                    number += 1
                    yield PlacedRow(values, number, f"{path}, row {number}")
    except (OSError, pyarrow.ArrowException, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not a Parquet file: {str(error).strip().splitlines()[0]}") from None


def data_set_rows(name: str, split: str) -> tuple[list[str], Iterator[PlacedRow]]:
    """Columns and rows through `datasets`: a local folder or file type, or a (cached) hub data set.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    try:
        import datasets
    except ModuleNotFoundError:
        raise MissingExtraError("a data set as prompts", "profile") from None
    try:
        rows = datasets.load_dataset(name, split=split)
    except Exception as error:  # the library raises its own, OSError, ValueError and the network's
        raise InputError(f"data set {name!r}, split {split!r}, cannot be loaded: {_root_of(error)}") from error
    return list(rows.column_names), _placed(rows, name)


def _placed(rows: Iterable[Mapping[str, object]], name: str) -> Iterator[PlacedRow]:
    number = 0
    try:
        for number, row in enumerate(rows, start=1):
            yield PlacedRow(row, number, f"row {number} of data set {name!r}")
    except (UnicodeDecodeError, OSError) as error:  # it reads the texts of a row as the row is asked for
        raise InputError(f"row {number + 1} of data set {name!r} cannot be read: {error}") from error


def _root_of(error: BaseException) -> str:
    """The first line of the error that another one only reports."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or ["it is empty or damaged"])[0]
