"""Free texts in the form in which they are published, found in a folder by what they hold. Writes no prompt."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specbound_controller.errors import InputError

MIN_WORDS, MAX_WORDS = 60, 150
"""Length of a passage."""
MBPP_TRAIN = range(601, 975)
"""Tasks that its paper trains on; the others are for testing, validation and few-shot examples."""


@dataclass(frozen=True, slots=True)
class Text:
    """An instruction as it stands, or a passage that something is to be done with."""

    text_id: str
    """Unique over all sources."""
    text: str
    source: str
    """What it comes from, and where in it."""
    licence: str
    kind: str = ""
    """Of an instruction: `math`, `code` or `instruct`; empty for a passage."""
    document: str = ""
    """Of a passage: what it is from, the same for all that belong together."""


@dataclass(frozen=True, slots=True)
class Source:
    """One published collection."""

    name: str
    licence: str
    suffixes: tuple[str, ...]
    is_its_file: Callable[[str], bool]
    """Whether a file's first lines are this source's."""
    read: Callable[["Source", Path], Iterator[Text]]


def find_texts(folder: Path) -> list[Text]:
    """All texts of all sources in a folder, in an order that depends on their names only.

    Raises:
        InputError: there is no folder, or nothing known in it.
    """
    if not folder.is_dir():
        raise InputError(f"sources must be a folder, got {folder}")
    texts: list[Text] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        source = _source_of(path)
        if source is not None:
            texts += source.read(source, path)
    if not texts:
        names = ", ".join(source.name for source in SOURCES)
        raise InputError(f"sources must hold files of one or several of {names}, got none in {folder}")
    return list({text.text_id: text for text in texts}.values())  # a file that is there twice counts once


def _source_of(path: Path) -> Source | None:
    candidates = [source for source in SOURCES if path.suffix in source.suffixes]
    if not candidates:
        return None
    with path.open(encoding="utf-8", errors="replace") as file:
        head = file.read(4096)
    return next((source for source in candidates if source.is_its_file(head)), None)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}:{number}: a line must be a JSON object: {error.msg}") from None


def _has_keys(*names: str) -> Callable[[str], bool]:
    return lambda head: head.startswith("{") and all(f'"{name}":' in head for name in names)


def _gsm8k(source: Source, path: Path) -> Iterator[Text]:
    if path.stem != "train":  # the test questions are Spec-Bench's
        return
    for number, row in _rows(path):
        yield Text(f"gsm8k-{number}", row["question"].strip(), f"GSM8K, train:{number}", source.licence, "math")


def _mbpp(source: Source, path: Path) -> Iterator[Text]:
    for _, row in _rows(path):
        if row["task_id"] in MBPP_TRAIN:
            task = f"{row['text'].strip()} Your code should pass this test: {row['test_list'][0].strip()}"
            yield Text(f"mbpp-{row['task_id']}", task, f"MBPP, task {row['task_id']}", source.licence, "code")


def _self_instruct(source: Source, path: Path) -> Iterator[Text]:
    for _, row in _rows(path):
        given = row["instances"][0]["input"].strip()
        text = f"{row['instruction'].strip()}\n\n{given}" if given else row["instruction"].strip()
        yield Text(f"self-instruct-{row['id']}", text, f"self-instruct, {row['id']}", source.licence, "instruct")


def _books(source: Source, path: Path) -> Iterator[Text]:
    for book in re.split(r"(?m)^(?=# Title: )", path.read_text(encoding="utf-8", errors="replace")):
        title = book.partition("\n")[0].removeprefix("# Title: ").strip()
        body = book.partition("\n-------\n")[2]
        paragraphs = [" ".join(part.split()) for part in body.split("\n\n") if not part.lstrip().startswith("#")]
        yield from _passages(source, title, paragraphs)


def _wikipedia(source: Source, path: Path) -> Iterator[Text]:
    title, paragraphs = "", list[str]()
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        heading = re.fullmatch(r" = ([^=].*[^=]) = ", line)
        if heading:
            yield from _passages(source, title, paragraphs)
            title, paragraphs = heading[1], []
        elif line.strip() and not line.startswith(" =") and "<unk>" not in title:  # else it could not be named
            sentences = re.split(r"(?<=[.!?]) ", _detokenised(line))
            paragraphs.append(" ".join(sentence for sentence in sentences if "<unk>" not in sentence))
    yield from _passages(source, title, paragraphs)


def _shakespeare(source: Source, path: Path) -> Iterator[Text]:
    speeches = path.read_text(encoding="utf-8", errors="replace").split("\n\n")
    yield from _passages(source, "plays", speeches, separator="\n\n")


def _detokenised(line: str) -> str:
    """WikiText as it was written: ` @-@ ` is a hyphen, punctuation stands behind its word."""
    text = re.sub(r" @(.)@ ", r"\1", line.strip())
    text = re.sub(r" ([.,;:!?)\]%']|'s|n't)(?= |$)", r"\1", text)
    text = re.sub(r"([(\[]) ", r"\1", text)
    return re.sub(r'" ([^"]*) "', r'"\1"', text)


def _passages(source: Source, title: str, paragraphs: Sequence[str], separator: str = "\n\n") -> Iterator[Text]:
    """Neighbouring paragraphs together, until they are long enough; too long ones are left out."""
    words, parts = 0, list[str]()
    for number, paragraph in enumerate(paragraphs):
        length = len(paragraph.split())
        if words + length > MAX_WORDS:
            words, parts = 0, []
        if length > MAX_WORDS or length == 0:
            continue
        words, parts = words + length, [*parts, paragraph.strip()]
        if words >= MIN_WORDS:
            where = f"{source.name}, {title}, {number}"
            yield Text(f"{source.name}-{title}-{number}", separator.join(parts), where, source.licence, "", title)
            words, parts = 0, []


SOURCES = (
    Source("GSM8K", "MIT", (".jsonl",), _has_keys("question", "answer"), _gsm8k),
    Source("MBPP", "CC BY 4.0", (".jsonl",), _has_keys("task_id", "test_list", "text"), _mbpp),
    Source("self-instruct", "Apache-2.0", (".jsonl",), _has_keys("instruction", "instances"), _self_instruct),
    Source("classic books", "public domain", (".md", ".txt"), lambda head: head.startswith("# Title: "), _books),
    Source(
        "Wikipedia",
        "CC BY-SA 3.0",
        (".txt", ".tokens", ".raw"),
        lambda head: re.search(r"(?m)^ = [^=]+ = $", head) is not None,
        _wikipedia,
    ),
    Source("Shakespeare", "public domain", (".txt",), lambda head: head.startswith("First Citizen:"), _shakespeare),
)
