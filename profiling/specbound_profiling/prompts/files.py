"""Prompts from the demonstration sets, a file, or a data set: what their rows mean. Knows no tokenizer and no model."""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path

from specbound_controller.errors import InputError
from specbound_controller.text_files import is_unicode
from specbound_profiling.prompts.rows import PlacedRow, data_set_rows, file_rows
from specbound_profiling.prompts.spec_bench import MT_BENCH, MT_BENCH_TASK, ids_of, question_id, split_of

FILE_COLUMNS = ("turns", "prompt")
"""What holds the text of a file's row, the first that holds any: Spec-Bench's form, or ours."""
DATA_SET_COLUMNS = ("prompt", "turns", "question", "text")
ID_COLUMNS = ("prompt_id", "question_id")
TASK_COLUMNS = ("task", "category")
NUM_HELD_OUT = 10
"""Shipped prompts of each kind that `training:evaluate` holds."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt."""

    prompt_id: str
    """Unique within its set."""
    task: str
    """Kind of content, `all` where the source names none."""
    text: str
    """What the user says, in a conversation last."""
    earlier: tuple[str, ...] = ()
    """What the user said before; the answers in between are the model's own."""
    category: str = ""
    """The source's own, finer word for the task; empty where there is none."""


_Placed = tuple[Prompt, str]
"""A prompt, and where it stands in its source."""


def load_prompts(spec: str, num_prompts: int | None = None) -> list[Prompt]:
    """Prompts by name, in the order of the source. A conversation is one prompt for each turn.

    Args:
        spec: `demo` (the profiling set), `demo:evaluate`, `training` (600 prompts of many kinds; `training:evaluate`
            is the last ten of each kind, `training:profile` all others), a file (JSON lines, a JSON list, CSV, TSV
            or Parquet; text in any UTF, also compressed), Spec-Bench's file with `:tuning` or `:evaluation` behind
            it, or `hf:NAME[:split[:column]]`; a split may be a slice, `train[:10]`.
        num_prompts: take only so many, the first of each task in turn; None takes all.

    Raises:
        InputError: file or data set missing, empty, with a broken line or the same id twice (the line is named).
    """
    if spec in ("training", "training:profile", "training:evaluate"):
        placed = _read_training(spec.partition(":")[2])
    elif spec in ("demo", "demo:profile", "demo:evaluate"):
        from specbound.assets import demo_prompts_path

        placed = _read_file(demo_prompts_path(spec.partition(":")[2] or "profile"))
    elif spec.startswith("hf:"):
        placed = _read_data_set(spec)
    else:
        path, part = split_of(spec)
        placed = _read_file(Path(path).expanduser())
        if part is not None:
            placed = [each for each in placed if question_id(each[0].prompt_id) in ids_of(part)]
    if not placed:
        raise InputError(f"prompts must hold at least one prompt, got none ({spec})")
    _refuse_repeated_ids(placed)
    prompts = [prompt for prompt, _ in placed]
    return prompts if num_prompts is None else _spread(prompts, num_prompts)


def other_prompts(spec: str) -> str:
    """Prompts to choose settings on where others are measured: the other set of the same, or those for training."""
    others = {
        "demo": "demo:evaluate",
        "demo:profile": "demo:evaluate",
        "demo:evaluate": "demo:profile",
        "training:profile": "training:evaluate",
        "training:evaluate": "training:profile",
    }
    path, split = split_of(spec)
    if split is not None:
        return f"{path}:{'tuning' if split == 'evaluation' else 'evaluation'}"
    return others.get(spec, "training" if spec != "training" else "demo:profile")


def prompts_hash(prompts: Sequence[Prompt]) -> str:
    """Sha256 over ids, tasks and texts, in order. 64 hex digits"""
    lines = (json.dumps([p.prompt_id, p.task, p.text, *([p.earlier] if p.earlier else [])]) for p in prompts)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _spread(prompts: Sequence[Prompt], num_prompts: int) -> list[Prompt]:
    """The first of each task, the second of each task, ... until `num_prompts` stand; in the source's order."""
    seen: dict[str, int] = {}
    ranked = []
    for index, prompt in enumerate(prompts):
        seen[prompt.task] = seen.get(prompt.task, 0) + 1
        ranked.append((seen[prompt.task], index))
    return [prompts[index] for index in sorted(index for _, index in sorted(ranked)[:num_prompts])]


def _read_training(part: str) -> list[_Placed]:
    """The shipped prompts, or the part of them that something is chosen on, or the part that it is measured on."""
    from specbound.assets import training_prompts_path

    placed = _read_file(training_prompts_path())
    held_out, seen = set(), Counter[str]()
    for prompt, _ in reversed(placed):
        seen[prompt.task] += 1
        if seen[prompt.task] <= NUM_HELD_OUT:
            held_out.add(prompt.prompt_id)
    return [each for each in placed if not part or (each[0].prompt_id in held_out) == (part == "evaluate")]


def _read_file(path: Path) -> list[_Placed]:
    if not os.path.exists(path):  # of a name that is too long too: Path.exists raises there
        raise InputError(f"prompts must be demo, training, hf:NAME or an existing file, got {shortened(str(path))}")
    return [(each, row.where) for row in file_rows(path) for each in _prompts(row, path.stem, FILE_COLUMNS)]


def _read_data_set(spec: str) -> list[_Placed]:
    """`hf:NAME[:split[:column]]`."""
    outside_brackets = r":(?![^\[]*\])"  # a slice such as train[:10] has a colon of its own
    name, split, column, *_ = [*re.split(outside_brackets, spec.removeprefix("hf:"), maxsplit=2), "", ""]
    names, rows = data_set_rows(name, split or "train")
    columns = [each for each in ([column] if column else DATA_SET_COLUMNS) if each in names]
    if not columns:
        raise InputError(f"column must be one of {', '.join(names)}, got {column!r} ({spec})")
    if names == ["text"]:  # the lines of a text file, the blank ones among them
        rows = (row for row in rows if not _is_absent(row.values["text"]))
    return [(each, row.where) for row in rows for each in _prompts(row, Path(name).name, columns)]


def _prompts(row: PlacedRow, source: str, columns: Sequence[str]) -> list[Prompt]:
    """What a row means: the text of the first column that holds any, its id and its kind of content.

    One prompt for each turn, `ID/1`, `ID/2`, ... where there are several.

    An absent value may be null, NaN (pandas'), blank, or an empty list.
    """
    values = {name: value for name, value in row.values.items() if not _is_absent(value)}
    column = next((name for name in columns if name in values), None)
    if column is None:
        wanted = " or ".join(f'"{name}"' for name in sorted(columns))
        raise InputError(f"{row.where}: a row must hold a non-empty {wanted}, got {_keys(row.values)}")
    texts = _turns(values[column], row.where, column)
    prompt_id = next((_name(values[n], n, row.where) for n in ID_COLUMNS if n in values), f"{source}-{row.number}")
    category = next((_name(values[n], n, row.where) for n in TASK_COLUMNS if n in values), "all")
    task = MT_BENCH_TASK if column == "turns" and category in MT_BENCH else category
    ids = [f"{prompt_id}/{number}" for number in range(1, len(texts) + 1)] if len(texts) > 1 else [prompt_id]
    return [
        Prompt(each, task, text, texts[:turn], "" if task == category else category)
        for turn, (each, text) in enumerate(zip(ids, texts, strict=True))
    ]


def _is_absent(value: object) -> bool:
    is_nan = isinstance(value, float) and isnan(value)
    return value is None or is_nan or value == [] or (isinstance(value, str) and not value.strip())


def _turns(value: object, where: str, column: str) -> tuple[str, ...]:
    """The text, or the texts of several turns."""
    found = [turn for turn in value if not _is_absent(turn)] if isinstance(value, list) else [value]
    turns = [turn for turn in found if isinstance(turn, str)]
    if not turns or len(turns) < len(found):
        raise InputError(f'{where}: "{column}" must hold a non-empty text, got {shortened(repr(value))}')
    for turn in turns:
        if not is_unicode(turn):
            raise InputError(f'{where}: "{column}" must be Unicode, got half of a character, {_half(turn)}')
    return tuple(turns)


def _name(value: object, column: str, where: str) -> str:
    """An id or a kind of content as one line of text; a whole float is a number that pandas has turned into one."""
    if isinstance(value, bool | bytes | list | dict):
        raise InputError(f'{where}: "{column}" must be a text or a number, got {shortened(repr(value))}')
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else " ".join(str(value).split())
    if not is_unicode(text):
        raise InputError(f'{where}: "{column}" must be Unicode, got half of a character, {_half(text)}')
    return text


def _half(text: str) -> str:
    return next(ascii(character) for character in text if "\ud800" <= character <= "\udfff")


def shortened(text: str) -> str:
    """For a message."""
    return text if len(text) <= 80 else f"{text[:77]}..."


def _keys(row: Mapping[str, object]) -> str:
    return shortened("keys " + ", ".join(map(repr, row))) if row else "no keys"


def _refuse_repeated_ids(placed: Iterable[_Placed]) -> None:
    seen: dict[str, str] = {}
    for prompt, where in placed:
        if prompt.prompt_id in seen:
            raise InputError(
                f"{where}: prompt ids must be unique, got {shortened(repr(prompt.prompt_id))} again "
                f"(first at {seen[prompt.prompt_id]})"
            )
        seen[prompt.prompt_id] = where


def spread(tasks: Sequence[str], count: int) -> list[int]:
    """The first of each task, the second of each, ... until there are so many; in order."""
    seen: dict[str, int] = {}
    ranked = []
    for index, task in enumerate(tasks):
        seen[task] = seen.get(task, 0) + 1
        ranked.append((seen[task], index))
    return sorted(index for _, index in sorted(ranked)[:count])
