"""What a part of a stage found: tables, lines to read beside them, values for machines. Imports no torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Cell = str | float | int | None


@dataclass(frozen=True, slots=True)
class Table:
    """Numbers as they were measured; whoever prints them rounds."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Cell]]
    """(rows, columns)"""


@dataclass(slots=True)
class Finding:
    """What one part found."""

    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """One line each."""
    data: dict[str, Any] = field(default_factory=dict)
    """What tables cannot hold, as JSON has it."""
    failure: str | None = None
    """Why the part has failed although it came to its end; None where it has not."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What every stage is told."""

    out: Path
    """Folder of the results."""
    is_dry: bool = False
    """On the CPU, with sizes so small that all parts take a minute: figures mean nothing, but every line has run."""

    @property
    def device(self) -> str:
        """A torch device."""
        return "cpu" if self.is_dry else "cuda"


@dataclass(frozen=True, slots=True)
class Part:
    """The least that a stage does or leaves for the next call."""

    name: str
    run: Callable[[], Finding]
    seconds: float
    """What it may take on one large GPU; it is not begun where less is left."""
