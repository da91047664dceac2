"""The prompts of every stage, apart from each other: nothing is measured on what something was chosen on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specbound.fit.budget import BOUNDS, Sizes
from specbound.fit.config import FitConfig
from specbound.results.files import write_whole
from specbound_profiling.prompts.files import Prompt, load_prompts, spread

OWN = "training"
"""What ships with the package for models of one's own."""
FEW = 60
"""Prompts of a user's below which settings are chosen on those that ship, and all of the user's are measured on."""
PARTS = ("profile", "final", "measure")


@dataclass(frozen=True, slots=True)
class Pools:
    """What prompts are drawn from."""

    chosen_on: list[list[Prompt]]
    """Conversations, for choosing."""
    measured_on: list[list[Prompt]] | None
    """For measuring; None: the same pool, other conversations."""
    words: str
    """What they are, for people."""


def open_pools(config: FitConfig) -> Pools:
    """Raises InputError where prompts are missing or too few to measure on."""
    if config.prompts is None and config.model == "demo":
        evaluation = conversations(load_prompts("demo:evaluate"))
        return Pools(conversations(load_prompts("demo:profile")), evaluation, "the demonstration's own prompts")
    if config.prompts is None:
        return Pools(conversations(load_prompts(OWN)), None, "prompts of many kinds that ship with specbound")
    own = conversations(load_prompts(config.prompts))
    if len(own) < FEW:
        shipped = conversations(load_prompts(OWN))
        words = (
            f"{config.prompts} ({len(own)} prompts, all for measuring: with {FEW} settings would be chosen on yours)"
        )
        return Pools(shipped, own, words)
    return Pools(own, None, config.prompts)


def conversations(prompts: Sequence[Prompt]) -> list[list[Prompt]]:
    """Prompts that belong together: the turns of one conversation."""
    found: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        is_turn = bool(prompt.earlier) or prompt.prompt_id.endswith("/1")
        key = prompt.prompt_id.rpartition("/")[0] if is_turn and "/" in prompt.prompt_id else prompt.prompt_id
        found.setdefault(key, []).append(prompt)
    return list(found.values())


def write_parts(pools: Pools, sizes: Sizes, folder: Path) -> None:
    """A file of prompts for each part, spread over the kinds of content."""
    left = list(pools.chosen_on)
    measured = _take(left if pools.measured_on is None else list(pools.measured_on), sizes.measure)
    wanted = {"final": sizes.final, "profile": sizes.profile}
    parts = {"measure": measured}
    for name, count in wanted.items():
        share = BOUNDS[name][1] / (BOUNDS["final"][1] + BOUNDS["profile"][1])
        parts[name] = _take(left, min(count, max(2, int(share * len(pools.chosen_on)))))
    for name, part in parts.items():
        write_whole(folder / file_of(name), "".join(_line(each) for each in part).encode("utf-8"))


def file_of(part: str) -> str:
    """The file of a part in the folder."""
    return f"prompts_{part}.jsonl"


def _take(left: list[list[Prompt]], count: int) -> list[list[Prompt]]:
    """Takes conversations out of a pool, as even over the kinds as they allow, until there are so many prompts."""
    order = spread([each[0].task for each in left], len(left))
    by_turn: dict[str, int] = {}
    ranked = []
    for index in order:
        task = left[index][0].task
        by_turn[task] = by_turn.get(task, 0) + 1
        ranked.append((by_turn[task], index))
    chosen, num_prompts = [], 0
    for _, index in sorted(ranked):
        if num_prompts >= count:
            break
        chosen.append(index)
        num_prompts += len(left[index])
    taken = [left[index] for index in sorted(chosen)]
    for index in sorted(chosen, reverse=True):
        del left[index]
    return taken


def _line(conversation: Sequence[Prompt]) -> str:
    last = conversation[-1]
    row: dict[str, Any] = {"prompt_id": conversation[0].prompt_id.removesuffix("/1"), "task": last.task}
    if last.earlier:
        row["turns"] = [*last.earlier, last.text]
    else:
        row["prompt"] = last.text
    return json.dumps(row, ensure_ascii=False) + "\n"
