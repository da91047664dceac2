"""Rows of a benchmark as tables: for a terminal, and as Markdown. Computes nothing."""

from collections.abc import Iterable, Sequence

from specbound.bench.growth import EXPECTED_EXPONENT
from specbound.bench.rows import BenchRow
from specbound.bench.scaling import Series
from specbound.results.rows import Row, columns
from specbound.results.tables import Cells
from specbound.results.tables import markdown as to_markdown
from specbound_controller.figures import number

COLUMNS = columns(
    BenchRow, ("tokens_per_second", "time_to_first_token_s", "speedup", "speedup_low"), last=("outputs_equal",)
)
NARROW = {name: column for name, column in COLUMNS.items() if name in columns(Row)}
"""Columns that a terminal has room for."""


def label(row: BenchRow) -> str:
    """What tables and plots call a method."""
    name = row.method if row.exactness == "token" else f"{row.method} ({row.exactness})"
    return f"{name}, synthetic" if row.is_synthetic else name


def totals_table(rows: Sequence[BenchRow]) -> Cells:
    """All prompts together, one line a method."""
    headings = ("method", *(column.title for column in NARROW.values()))
    shown = [(label(row), *(column.show(row) for column in NARROW.values())) for row in rows if row.task == "all"]
    return Cells("", headings, shown)


def categories_table(rows: Sequence[BenchRow]) -> Cells | None:
    """Speedup of every method on every kind of content; None where there is one kind."""
    tasks = list(dict.fromkeys(row.task for row in rows))
    if len(tasks) <= 2:
        return None
    return Cells("speedup", ("method", *tasks), [(name, *line) for name, line in speedups(rows, tasks).items()])


def speedups(rows: Sequence[BenchRow], tasks: Sequence[str]) -> dict[str, list[str]]:
    """Method -> speedup on each kind of content."""
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        found.setdefault(label(row), {})[row.task] = COLUMNS["speedup"].show(row)
    return {method: [of_task.get(task, "–") for task in tasks] for method, of_task in found.items()}


def whole_table(rows: Sequence[BenchRow]) -> Cells:
    """All rows with all columns."""
    headings = ("content", "method", "setting", *(column.title for column in COLUMNS.values()))
    shown = [
        (row.task, label(row), row.setting or "–", *(column.show(row) for column in COLUMNS.values())) for row in rows
    ]
    return Cells("", headings, shown, 3)


def shapes_table(rows: Sequence[BenchRow]) -> Cells:
    """Every row, by draft length; all of them synthetic."""
    headings = ("draft", "method", *(column.title for column in NARROW.values()))
    names = (label(row).removesuffix(", synthetic") for row in rows)
    shown = [(row.task, name, *(c.show(row) for c in NARROW.values())) for row, name in zip(rows, names, strict=True)]
    return Cells("", headings, shown, 2)


def scaling_table(series: Iterable[Series]) -> Cells:
    """One line for each series."""
    headings = ("axis", "what", "from", "to", "ms at both ends", "fixed ms", "ms per unit", "exponent", "expected")
    rows = [
        (
            each.axis,
            each.name,
            str(each.values[0]),
            str(each.values[-1]),
            f"{each.seconds[0] * 1e3:.2f} to {each.seconds[-1] * 1e3:.2f}",
            f"{each.fit.fixed_s * 1e3:.2f}",
            f"{each.fit.slope_s * 1e3:.3g}",
            number(each.fit.exponent, 2),
            f"{EXPECTED_EXPONENT:g}",
        )
        for each in series
    ]
    return Cells("", headings, rows, 2)


def with_notes(cells: Cells, notes: Sequence[str]) -> str:
    """A table as Markdown, then the notes."""
    return "\n".join([to_markdown(cells), *(f"* {note}" for note in notes)]) + "\n"
