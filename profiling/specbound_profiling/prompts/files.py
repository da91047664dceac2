"""Prompts from the demonstration sets, JSON lines, or a data set. Knows no tokenizer and no model."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from specbound_controller.errors import InputError, MissingExtraError
from specbound_profiling.prompts.spec_bench import MT_BENCH, MT_BENCH_TASK, ids_of, question_id, split_of


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


def load_prompts(spec: str, num_prompts: int | None = None) -> list[Prompt]:
    """Prompts by name, in the order of the source. A conversation is one prompt for each turn.

    Args:
        spec: `demo` (the profiling set), `demo:evaluate`, `training` (600 prompts of many kinds), a JSON-lines file,
            Spec-Bench's file with `:tuning` or `:evaluation` behind it, or `hf:NAME[:split[:column]]`; a split
            may be a slice, `train[:10]`.
        num_prompts: take only so many, the first of each task in turn; None takes all.

    Raises:
        InputError: file or data set missing, empty, or with a broken line (its number is named).
    """
    if spec == "training":
        from specbound.assets import training_prompts_path

        prompts = _read_file(training_prompts_path())
    elif spec in ("demo", "demo:profile", "demo:evaluate"):
        from specbound.assets import demo_prompts_path

        prompts = _read_file(demo_prompts_path(spec.partition(":")[2] or "profile"))
    elif spec.startswith("hf:"):
        prompts = _read_data_set(spec)
    else:
        path, split = split_of(spec)
        prompts = _read_file(Path(path).expanduser())
        if split is not None:
            prompts = [prompt for prompt in prompts if question_id(prompt.prompt_id) in ids_of(split)]
    if not prompts:
        raise InputError(f"prompts must hold at least one prompt, got none ({spec})")
    _refuse_repeated_ids(prompts, spec)
    return prompts if num_prompts is None else _spread(prompts, num_prompts)


def other_prompts(spec: str) -> str:
    """Prompts to choose settings on where others are measured: the other set of the same, or those for training."""
    others = {"demo": "demo:evaluate", "demo:profile": "demo:evaluate", "demo:evaluate": "demo:profile"}
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


def _read_file(path: Path) -> list[Prompt]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"prompts must be demo, training, hf:NAME or an existing file, got {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"prompts file {path} cannot be read as UTF-8 text: {error}") from None
    lines = enumerate(text.split("\n"), start=1)
    return [prompt for number, line in lines if line.strip() for prompt in _parse(line, number, path)]


def _parse(line: str, number: int, path: Path) -> list[Prompt]:
    """One line of Spec-Bench's form `{"question_id", "category", "turns"}`, or `{"prompt", "task"}`."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{number}: a line must be a JSON object, got {error.msg} at {error.pos}") from None
    if not isinstance(row, dict):
        raise InputError(f"{path}:{number}: a line must be a JSON object, got {type(row).__name__}")
    texts = _texts(row.get("turns", row.get("prompt")))
    if texts is None:
        raise InputError(f'{path}:{number}: a line must hold a non-empty "prompt" or "turns", got {_keys(row)}')
    return _turns(row, texts, f"{path.stem}-{number}")


def _texts(value: object) -> tuple[str, ...] | None:
    """A prompt, or what the user says turn by turn; None where it is none of them, or empty."""
    texts = tuple(value) if isinstance(value, list) else (value,)
    return texts if texts and all(isinstance(text, str) and text.strip() for text in texts) else None


def _turns(row: dict[str, object], texts: tuple[str, ...], name: str) -> list[Prompt]:
    """One prompt for each turn, `ID/1`, `ID/2`, ... where there are several. name: the id where the row has none."""
    prompt_id = str(row.get("prompt_id", row.get("question_id", name)))
    category = str(row.get("task", row.get("category", "all")))
    task = MT_BENCH_TASK if "turns" in row and category in MT_BENCH else category
    ids = [f"{prompt_id}/{number}" for number in range(1, len(texts) + 1)] if len(texts) > 1 else [prompt_id]
    return [
        Prompt(each, task, text, texts[:turn], "" if task == category else category)
        for turn, (each, text) in enumerate(zip(ids, texts, strict=True))
    ]


def _keys(row: dict[str, object]) -> str:
    return "keys " + ", ".join(map(repr, row)) if row else "no keys"


def _refuse_repeated_ids(prompts: Iterable[Prompt], spec: str) -> None:
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.prompt_id in seen:
            raise InputError(f"prompt ids must be unique, got {prompt.prompt_id!r} twice ({spec})")
        seen.add(prompt.prompt_id)


def _read_data_set(spec: str) -> list[Prompt]:
    """`hf:NAME[:split[:column]]` through `datasets`: a local folder or file type, or a (cached) hub data set."""
    try:
        import datasets
    except ModuleNotFoundError:
        raise MissingExtraError("a data set as prompts", "profile") from None
    outside_brackets = r":(?![^\[]*\])"  # a slice such as train[:10] has a colon of its own
    name, split, column, *_ = [*re.split(outside_brackets, spec.removeprefix("hf:"), maxsplit=2), "", ""]
    split = split or "train"
    try:
        rows = datasets.load_dataset(name, split=split)
    except Exception as error:  # the library raises its own, OSError, ValueError and the network's
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"data set {name!r}, split {split!r}, cannot be loaded: {reason}") from error
    column = column or next((c for c in ("prompt", "turns", "question", "text") if c in rows.column_names), "")
    if column not in rows.column_names:
        raise InputError(f"column must be one of {', '.join(rows.column_names)}, got {column!r} ({spec})")
    return list(_data_set_prompts(rows, name, column))


def _data_set_prompts(rows: Iterable[dict[str, object]], name: str, column: str) -> Iterator[Prompt]:
    for number, row in enumerate(rows, start=1):
        texts = _texts(row[column])
        if texts is None:
            raise InputError(f"row {number} of data set {name!r} must hold text in {column!r}, got {row[column]!r}")
        yield from _turns(row, texts, f"{Path(name).name}-{number}")


def spread(tasks: Sequence[str], count: int) -> list[int]:
    """The first of each task, the second of each, ... until there are so many; in order."""
    seen: dict[str, int] = {}
    ranked = []
    for index, task in enumerate(tasks):
        seen[task] = seen.get(task, 0) + 1
        ranked.append((seen[task], index))
    return sorted(index for _, index in sorted(ranked)[:count])
