"""Rows as tools write them: every encoding, line end and form gives the same rows, or one line that names the place."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from specbound_controller.errors import InputError
from specbound_profiling.prompts.files import Prompt, load_prompts
from specbound_profiling.prompts.rows import file_rows

ROWS = [{"prompt_id": 1, "prompt": "Grüße, 你好"}, {"prompt_id": 2, "prompt": 'say "yes", or\nnot', "task": "code"}]
EXPECTED = [Prompt("1", "all", "Grüße, 你好"), Prompt("2", "code", 'say "yes", or\nnot')]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
CSV = 'prompt_id,prompt,task\n1,"Grüße, 你好",\n2,"say ""yes"", or\nnot",code\n'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_encoding_and_line_end_is_read(tmp_path: Path, encoding: str, end: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes((end + LINES.replace("\n", end) + end + " " + end).encode(encoding))
    assert load_prompts(str(path)) == EXPECTED


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_files_are_read_whatever_their_name(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    (tmp_path / "p.jsonl").write_bytes(compress(LINES.encode("utf-16")))
    assert load_prompts(str(tmp_path / "p.jsonl")) == EXPECTED
    (tmp_path / "p.csv.gz").write_bytes(compress(CSV.encode()))
    assert load_prompts(str(tmp_path / "p.csv.gz")) == EXPECTED


def test_a_json_list_csv_tsv_and_parquet_hold_the_same_rows(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(json.dumps(ROWS, indent=2))
    (tmp_path / "table.csv").write_text(CSV.replace("\n1", "\r\n1"), encoding="utf-8-sig", newline="")
    (tmp_path / "table.tsv").write_text(CSV.replace(",", "\t").replace("\t 你", ", 你").replace("\t or", ", or"))
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist([{"task": None, **row} for row in ROWS]), tmp_path / "t.parquet")
    for name in ("list.json", "table.csv", "table.tsv", "t.parquet"):
        assert load_prompts(str(tmp_path / name)) == EXPECTED, name


def test_a_line_of_many_megabytes_is_read(tmp_path: Path) -> None:
    text = "a cat " * 2_000_000
    for name, content in (("p.jsonl", json.dumps({"prompt": text})), ("p.csv", f"prompt\n{text}\n")):
        (tmp_path / name).write_text(content)
        assert load_prompts(str(tmp_path / name))[0].text == text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "p.jsonl",
            b'{"prompt": "a"}\n{"prompt": "caf\xe9"}\n',
            r"p\.jsonl:2: text must be UTF-8 or UTF-16, got .* 0xe9",
        ),
        ("p.jsonl", b'{"prompt": "a"}\r\n\r\n{"prompt"\r\n', r"p\.jsonl:3: a line must be a JSON object"),
        ("p.jsonl", gzip.compress(b'{"prompt": "a"}', mtime=0)[:-9], r"p\.jsonl cannot be decompressed"),
        ("p.jsonl", b"\x1f\x8bnot gzip", r"p\.jsonl cannot be decompressed"),
        ("p.jsonl", b"PK\x03\x04...", r"it is a zip archive"),
        ("p.jsonl", b"PAR1...", r"it is Parquet"),
        ("p.json", b'[{"prompt": "a"},\n{"prompt"', r"p\.json:2: a JSON list must be whole"),
        ("p.json", b'[{"prompt": "a"}, 3]', r"p\.json, entry 2: an entry must be a JSON object, got int"),
        ("p.csv", b'prompt\n"never closed', r"p\.csv:1: a row must be CSV"),
        ("p.csv", b"prompt,task\na,b,c\n", r"p\.csv:2: a row must have 2 columns"),
        ("p.csv", b"prompt,task,prompt\na,b,c\n", r"p\.csv:1: columns must have different names, got 'prompt' twice"),
        ("p.csv", b"text\na\n", r"p\.csv:2: a row must hold"),
        ("p.parquet", b"PAR1 half", r"p\.parquet is not a Parquet file"),
    ],
)
def test_what_cannot_be_read_is_one_line_with_its_place(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load_prompts(str(tmp_path / name))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_the_limit_of_a_csv_field_is_left_as_it_was(tmp_path: Path) -> None:
    import csv

    (tmp_path / "p.csv").write_text("prompt\na\n")
    before = csv.field_size_limit()
    assert [row.number for row in file_rows(tmp_path / "p.csv")] == [2]
    assert csv.field_size_limit() == before
