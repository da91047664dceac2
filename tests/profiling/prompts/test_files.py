"""Prompts: both line forms, data sets, the spread over tasks, and every kind of bad input in one line."""

import json
from pathlib import Path

import pytest

from specbound_controller.errors import InputError
from specbound_profiling.prompts.files import Prompt, load_prompts, prompts_hash


def write(path: Path, *rows: object) -> str:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return str(path)


def test_both_line_forms_are_read_in_order(tmp_path: Path) -> None:
    spec = write(
        tmp_path / "p.jsonl",
        {"question_id": 81, "category": "writing", "turns": ["Compose a post.", "Rewrite it."]},
        "",
        {"prompt": "def f():", "task": "code"},
        {"prompt_id": "x", "prompt": "plain\u2028text"},
    )
    assert load_prompts(spec) == [
        Prompt("81/1", "mt_bench", "Compose a post.", category="writing"),
        Prompt("81/2", "mt_bench", "Rewrite it.", ("Compose a post.",), "writing"),
        Prompt("p-3", "code", "def f():"),
        Prompt("x", "all", "plain\u2028text"),
    ]


def test_fewer_prompts_are_spread_over_the_tasks(tmp_path: Path) -> None:
    tasks = ["a", "a", "a", "b", "b", "c"]
    spec = write(tmp_path / "p.jsonl", *({"prompt": f"{t}{i}", "task": t} for i, t in enumerate(tasks)))
    assert [p.text for p in load_prompts(spec, 3)] == ["a0", "b3", "c5"]
    assert [p.text for p in load_prompts(spec, 4)] == ["a0", "a1", "b3", "c5"]
    assert len(load_prompts(spec, 99)) == 6


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a"', r"p\.jsonl:2: a line must be a JSON object"),
        ('["a"]', r"p\.jsonl:2: a line must be a JSON object, got list"),
        ('{"text": "a"}', r"p\.jsonl:2: a row must hold a non-empty \"prompt\" or \"turns\", got keys 'text'"),
        ('{"prompt": "  "}', r"p\.jsonl:2: a row must hold"),
        ('{"turns": []}', r"p\.jsonl:2: a row must hold"),
        ('{"prompt": 3}', r'p\.jsonl:2: "prompt" must hold a non-empty text, got 3'),
        ('{"turns": ["a", 3]}', r'p\.jsonl:2: "turns" must hold a non-empty text'),
        ('{"prompt": "the \\ud83d cat"}', r'p\.jsonl:2: "prompt" must be Unicode, got half of a character'),
        ('{"turns": ["a", "b \\udc00"]}', r'p\.jsonl:2: "turns" must be Unicode'),
        ('{"prompt": "a", "task": "\\ud83d"}', r'p\.jsonl:2: "task" must be Unicode'),
        ('{"prompt": "a", "prompt_id": ["x"]}', r'p\.jsonl:2: "prompt_id" must be a text or a number'),
        ('{"prompt": "a", "task": true}', r'p\.jsonl:2: "task" must be a text or a number'),
        ("[" * 100_000, r"p\.jsonl:2: a line must be a JSON object"),
        ('{"prompt": "a", "n": ' + "9" * 5000 + "}", r"p\.jsonl:2: a line must be a JSON object"),
    ],
)
def test_broken_line_is_named_by_its_number(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_prompts(write(tmp_path / "p.jsonl", {"prompt": "fine"}, line))


def test_missing_empty_and_binary_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"prompts must be demo, training, hf:NAME or an existing file, got .*/none"):
        load_prompts(str(tmp_path / "none.jsonl"))
    with pytest.raises(InputError, match="at least one prompt, got none"):
        load_prompts(write(tmp_path / "empty.jsonl", "", " "))
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"binary\.jsonl:1: text must be UTF-8 or UTF-16, got the byte 0x00"):
        load_prompts(str(tmp_path / "binary.jsonl"))
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        load_prompts(str(tmp_path))
    with pytest.raises(InputError, match="existing file"):
        load_prompts("x" * 5000)


@pytest.mark.parametrize("other", [7, "7", 7.0])
def test_repeated_ids_are_refused_with_both_lines(tmp_path: Path, other: object) -> None:
    spec = write(tmp_path / "p.jsonl", {"question_id": 7, "turns": ["a"]}, "", {"prompt_id": other, "prompt": "b"})
    with pytest.raises(InputError, match=r"p\.jsonl:3: prompt ids must be unique, got '7' again \(first at .*:1\)"):
        load_prompts(spec)


def test_null_blank_and_nan_count_as_absent(tmp_path: Path) -> None:
    spec = write(
        tmp_path / "p.jsonl",
        {"prompt_id": None, "prompt": "one", "task": None, "turns": None},
        {"prompt_id": " ", "prompt": "two", "task": "", "turns": []},
        '{"prompt_id": NaN, "prompt": "three", "category": "code", "task": NaN}',
        {"prompt_id": 4.0, "prompt": "", "turns": ["four", None, "five"], "task": 12},
    )
    assert load_prompts(spec) == [
        Prompt("p-1", "all", "one"),
        Prompt("p-2", "all", "two"),
        Prompt("p-3", "code", "three"),
        Prompt("4/1", "12", "four"),
        Prompt("4/2", "12", "five", ("four",)),
    ]


def test_names_are_one_line_of_text(tmp_path: Path) -> None:
    (prompt,) = load_prompts(write(tmp_path / "p.jsonl", {"prompt_id": "a\n b", "prompt": "x\ny", "task": "c\td"}))
    assert prompt == Prompt("a b", "c d", "x\ny")


def test_hash_depends_on_text_and_order() -> None:
    one, two = Prompt("1", "a", "x"), Prompt("2", "a", "y")
    assert prompts_hash([one, two]) != prompts_hash([two, one])
    assert prompts_hash([one]) != prompts_hash([Prompt("1", "a", "z")])
    assert prompts_hash([one]) == prompts_hash([Prompt("1", "a", "x")])
    assert prompts_hash([one]) != prompts_hash([Prompt("1", "a", "x", ("before",))])


@pytest.fixture
def data_set(tmp_path: Path) -> str:
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "qa"
    folder.mkdir()
    rows = {"question": ["How many?", "Why?"], "task": ["math", "prose"], "number": [1, 2]}
    datasets.Dataset.from_dict(rows).to_parquet(str(folder / "test.parquet"))
    return str(folder)


def test_local_data_set_is_read_by_split_and_column(data_set: str) -> None:
    expected = [Prompt("qa-1", "math", "How many?"), Prompt("qa-2", "prose", "Why?")]
    assert load_prompts(f"hf:{data_set}:test:question") == expected
    assert load_prompts(f"hf:{data_set}:test") == expected


def test_split_may_be_a_slice(data_set: str) -> None:
    first = [Prompt("qa-1", "math", "How many?")]
    assert load_prompts(f"hf:{data_set}:test[:1]") == first
    assert load_prompts(f"hf:{data_set}:test[0:1]:question") == first


def test_data_set_errors_are_one_line(data_set: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="column must be one of question, task, number, got 'answer'"):
        load_prompts(f"hf:{data_set}:test:answer")
    with pytest.raises(InputError, match=r'row 1 of data set .*: "number" must hold a non-empty text, got 1'):
        load_prompts(f"hf:{data_set}:test:number")
    for spec in (f"hf:{data_set}:validation", f"hf:{tmp_path / 'nothing'}"):
        with pytest.raises(InputError, match="cannot be loaded") as caught:
            load_prompts(spec)
        assert "\n" not in str(caught.value)


def test_rows_of_a_data_set_that_lack_a_value_are_read_like_those_of_a_file(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    folder = tmp_path / "mixed"
    folder.mkdir()
    rows = [{"prompt": "one", "task": "code", "prompt_id": "x"}, {"prompt": "two"}, {"turns": ["three", "four"]}]
    write(folder / "train.jsonl", *rows)
    assert load_prompts(f"hf:{folder}") == [
        Prompt("x", "code", "one"),
        Prompt("mixed-2", "all", "two"),
        Prompt("mixed-3/1", "all", "three"),
        Prompt("mixed-3/2", "all", "four", ("three",)),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.jsonl", b'{"prompt":"one"}\n{"prompt":"caf\xe9"}\n', r"row \d of data set .* cannot be read"),
        ("train.jsonl", b"", "cannot be loaded: it is empty or damaged"),
        ("train.jsonl", '{"prompt":"one"}\n'.encode("utf-16"), "cannot be loaded: JSON parse error"),
        ("train.csv", b"prompt,task\none,\nNA,x\n", r"row 2 of data set .*: a row must hold"),
    ],
)
def test_damaged_files_of_a_data_set_are_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    pytest.importorskip("datasets")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load_prompts(f"hf:{tmp_path}")
    assert "\n" not in str(caught.value)


def test_blank_lines_of_a_text_data_set_are_no_prompts(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "train.txt").write_text("one\n\ntwo\n")
    assert [prompt.text for prompt in load_prompts(f"hf:{tmp_path}")] == ["one", "two"]
