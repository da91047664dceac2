"""What a benchmark hands to whoever prints it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from specbound.bench.efficiency import Breakdown
from specbound.bench.rows import BenchRow, Level
from specbound.bench.specbench import Item

Say = Callable[[str], None]
"""Gets a line as each stage begins."""


@dataclass(slots=True)
class BenchResult:
    """The table, what has to be said beside it, and what plots and answers are made of."""

    model: dict[str, Any]
    rows: list[BenchRow]
    notes: list[str]
    is_trustworthy: bool
    """Our outputs are equal up to verified near-ties, and the machine was quiet or noise is allowed."""
    breakdowns: dict[str, Breakdown] = field(default_factory=dict)
    """Method -> where its seconds go."""
    speedup_map: tuple[Sequence[int], Sequence[Sequence[float]]] | None = None
    """Replayed speedups of fixed drafts: exit layers, rows of widths from 0 on."""
    items: list[Item] = field(default_factory=list)
    """Of questions, for answers; empty where the prompts are random."""
    levels: list[Level] = field(default_factory=list)
    decode: Callable[[list[int]], str] | None = None
    """Tokens -> text."""


def breakdowns_by_label(levels: Sequence[Level]) -> dict[str, Breakdown]:
    """Where time goes, of all levels and draft lengths together."""
    found: dict[str, Breakdown] = {}
    for level in levels:
        mark = "" if level.exactness == "token" else f" ({level.exactness})"
        place = f", {level.prompts[0].task}" if level.is_synthetic else ""
        found |= {f"{name}{mark}{place}": each for name, each in level.breakdowns.items()}
    return found
