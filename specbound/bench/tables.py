"""Rows of a benchmark as tables: for a terminal, and as Markdown. Computes nothing."""

import math
from collections.abc import Sequence

from rich.table import Table

from specbound.bench.growth import EXPECTED_EXPONENT
from specbound.bench.rows import BenchRow
from specbound.bench.scaling import Series
from specbound.results.tables import equality, number, share, times

COLUMNS = (
    "tokens/s",
    "first token ms",
    "speedup",
    "95 % interval",
    "tokens per step",
    "acceptance",
    "layer calls per token",
    "rows per token",
    "model's share",
    "peak MiB",
    "outputs equal",
)
NARROW = (0, 2, 3, 4, 5, 6, 10)
"""Columns that a terminal has room for."""


def label(row: BenchRow) -> str:
    """What tables and plots call a method."""
    name = row.method if row.exactness == "token" else f"{row.method} ({row.exactness})"
    return f"{name}, synthetic" if row.is_synthetic else name


def cells(row: BenchRow) -> list[str]:
    """One row in the order of `COLUMNS`."""
    is_unclaimed = math.isnan(row.speedup) and not math.isnan(row.speed_ratio)
    interval = "–" if math.isnan(row.speedup_low) else f"{row.speedup_low:.2f}–{row.speedup_high:.2f}"
    memory = "–" if row.peak_memory_bytes is None else f"{row.peak_memory_bytes / 2**20:.0f}"
    return [
        number(row.tokens_per_second, 1),
        number(row.time_to_first_token_s * 1e3, 1),
        f"({row.speed_ratio:.2f}x)" if is_unclaimed else times(row.speedup),
        interval,
        number(row.tokens_per_step, 2),
        number(row.acceptance_rate, 2),
        number(row.layer_calls_per_token, 1),
        number(row.layer_rows_per_token, 1),
        share(row.model_share),
        memory,
        equality(row, unknown="own draw"),
    ]


def totals_table(rows: Sequence[BenchRow]) -> Table:
    """All prompts together, one line a method."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("method", no_wrap=True)
    for index in NARROW:
        table.add_column(_heading(index), justify="right", no_wrap=True)
    for row in rows:
        if row.task == "all":
            own = cells(row)
            table.add_row(label(row), *(own[index] for index in NARROW))
    return table


def categories_table(rows: Sequence[BenchRow]) -> Table | None:
    """Speedup of every method on every kind of content; None where there is one kind."""
    tasks = list(dict.fromkeys(row.task for row in rows))
    if len(tasks) <= 2:
        return None
    table = Table(title="speedup", title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("method", no_wrap=True)
    for task in tasks:
        table.add_column(task, justify="right")
    for method, line in speedups(rows, tasks).items():
        table.add_row(method, *line)
    return table


def speedups(rows: Sequence[BenchRow], tasks: Sequence[str]) -> dict[str, list[str]]:
    """Method -> speedup on each kind of content."""
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        found.setdefault(label(row), {})[row.task] = cells(row)[COLUMNS.index("speedup")]
    return {method: [of_task.get(task, "–") for task in tasks] for method, of_task in found.items()}


def markdown(rows: Sequence[BenchRow], notes: Sequence[str]) -> str:
    """All rows with all columns, then the notes."""
    lines = [f"| content | method | setting | {' | '.join(COLUMNS)} |", f"|{'---|' * (len(COLUMNS) + 3)}"]
    for row in rows:
        lines.append(f"| {row.task} | {label(row)} | {row.setting or '–'} | {' | '.join(cells(row))} |")
    return "\n".join([*lines, "", *(f"* {note}" for note in notes)]) + "\n"


def _heading(index: int) -> str:
    return COLUMNS[index].replace(" per ", "\nper ").replace("% interval", "%\ninterval").replace("s equal", "s\nequal")


def shapes_table(rows: Sequence[BenchRow]) -> Table:
    """Every row, by draft length; all of them synthetic."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for name in ("draft", "method"):
        table.add_column(name, no_wrap=True)
    for index in NARROW:
        table.add_column(_heading(index), justify="right", no_wrap=True)
    for row in rows:
        own = cells(row)
        table.add_row(row.task, label(row).removesuffix(", synthetic"), *(own[index] for index in NARROW))
    return table


SCALING_COLUMNS = ("axis", "what", "from", "to", "ms at both ends", "fixed ms", "ms per unit", "exponent", "expected")


def scaling_cells(series: Series) -> tuple[str, ...]:
    """One series in the order of `SCALING_COLUMNS`."""
    fit = series.fit
    return (
        series.axis,
        series.name,
        str(series.values[0]),
        str(series.values[-1]),
        f"{series.seconds[0] * 1e3:.2f} to {series.seconds[-1] * 1e3:.2f}",
        f"{fit.fixed_s * 1e3:.2f}",
        f"{fit.slope_s * 1e3:.3g}",
        number(fit.exponent, 2),
        f"{EXPECTED_EXPONENT:g}",
    )


def scaling_table(series: Sequence[Series]) -> Table:
    """One line for each series."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for index, name in enumerate(SCALING_COLUMNS):
        table.add_column(name, justify="left" if index < 2 else "right")
    for each in series:
        table.add_row(*scaling_cells(each))
    return table


def scaling_markdown(series: Sequence[Series], notes: Sequence[str]) -> str:
    """The same, then the notes."""
    lines = [f"| {' | '.join(SCALING_COLUMNS)} |", "|---" * len(SCALING_COLUMNS) + "|"]
    lines += [f"| {' | '.join(scaling_cells(each))} |" for each in series]
    return "\n".join([*lines, "", *(f"* {note}" for note in notes)]) + "\n"
