"""Prompts drawn evenly over the kinds of task, each passage used once. Knows the form of no source."""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from specbound_controller.errors import InputError
from specbound_profiling.prompts.training.config import PromptsConfig
from specbound_profiling.prompts.training.sources import Text, find_texts
from specbound_profiling.prompts.training.templates import WORDINGS, needs_two, written

MAX_PROMPT_WORDS = 200
Row = dict[str, str]
"""`prompt_id`, `task`, `prompt`, `source`, `licence`"""


def make_prompts(config: PromptsConfig) -> list[Row]:
    """Rows in the order in which they were drawn: the first N are an even choice too.

    Raises:
        InputError: no sources, or too few for so many prompts.
    """
    texts = find_texts(Path(config.sources).expanduser())
    rows = list(_drawn(texts, config.num_prompts, random.Random(config.seed)))
    if len(rows) < config.num_prompts:
        counts = ", ".join(f"{count} {task}" for task, count in sorted(Counter(row["task"] for row in rows).items()))
        raise InputError(
            f"num_prompts must be at most {len(rows)} for what is in {config.sources} ({counts}), got "
            f"{config.num_prompts}; add sources"
        )
    return rows


def write_prompts(rows: Sequence[Row], path: Path) -> None:
    """One JSON object a line; the file appears whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise InputError(f"out {path} cannot be written: {error.strerror}") from error


def _drawn(texts: Sequence[Text], count: int, rng: random.Random) -> Iterator[Row]:
    """One row of each kind in turn, until there are so many or all kinds have run dry."""
    passages = _evenly([text for text in texts if not text.kind], rng)
    neighbours = defaultdict(list)
    for text in passages:
        neighbours[text.document].append(text)
    unused = iter(passages)
    kinds: dict[str, Iterator[Row]] = {}
    for kind in ("math", "code", "instruct"):
        of_kind = [text for text in texts if text.kind == kind and len(text.text.split()) <= MAX_PROMPT_WORDS]
        rng.shuffle(of_kind)
        kinds[kind] = (_row(text, kind, text.text) for text in of_kind)
    for kind in WORDINGS:
        kinds[kind] = _on_passages(kind, unused, neighbours, rng)
    num_drawn = 0
    while kinds and num_drawn < count:
        for kind, rows in list(kinds.items()):
            row = next(rows, None)
            if row is None:
                del kinds[kind]
            elif num_drawn < count:
                num_drawn += 1
                yield row


def _evenly(passages: Sequence[Text], rng: random.Random) -> list[Text]:
    """One passage of each licence in turn, as long as they last: the largest source does not drown the others."""
    groups = defaultdict(list)
    for text in passages:
        groups[text.licence].append(text)
    for group in groups.values():
        rng.shuffle(group)
    return [text for row in zip_longest(*groups.values()) for text in row if text is not None]


def _on_passages(
    kind: str, unused: Iterator[Text], neighbours: dict[str, list[Text]], rng: random.Random
) -> Iterator[Row]:
    """Rows on passages that no other kind has had; those that do not suit the kind are passed over."""
    for text in unused:
        other = rng.choice(neighbours[text.document]) if needs_two(kind) else text
        if needs_two(kind) and other is text:
            continue
        prompt = written(kind, text.text, other.text, rng)
        if prompt is not None and len(prompt.split()) <= MAX_PROMPT_WORDS:
            yield _row(text, kind, prompt)


def _row(text: Text, task: str, prompt: str) -> Row:
    return {
        "prompt_id": f"{text.text_id}-{task}" if not text.kind else text.text_id,
        "task": task,
        "prompt": prompt,
        "source": text.source,
        "licence": text.licence,
    }
