"""Rows of a report as a table for people. Computes nothing."""

import math
from collections.abc import Sequence
from itertools import groupby

from rich.table import Table

from specbound.report import Row

LABELS = {
    "transformers": "transformers generate",
    "plain": "plain, our loop",
    "best_static": "best static",
    "oracle": "oracle (replayed)",
}
"""Method -> what the table calls it; others keep their name."""


def results_table(rows: Sequence[Row]) -> Table:
    """One section for each kind of content, in the order of the rows."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("content")
    table.add_column("method")
    for heading in ("tokens/s", "tokens/step", "acceptance", "layer calls/token", "speedup", "outputs equal"):
        table.add_column(heading, justify="right")
    for task, of_task in groupby(rows, key=lambda row: row.task):
        for index, row in enumerate(of_task):
            table.add_row(task if index == 0 else "", LABELS.get(row.method, row.method), *_cells(row))
        table.add_section()
    return table


def _cells(row: Row) -> tuple[str, ...]:
    return (
        _number(row.tokens_per_second, 1),
        _number(row.tokens_per_step, 2),
        _number(row.acceptance_rate, 2),
        _number(row.layer_calls_per_token, 1),
        _speedup(row),
        _equality(row),
    )


def _number(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _speedup(row: Row) -> str:
    if math.isnan(row.speedup):
        return "–"
    interval = "" if math.isnan(row.speedup_low) else f" [{row.speedup_low:.2f}, {row.speedup_high:.2f}]"
    return f"{row.speedup:.2f}x{interval}"


def _equality(row: Row) -> str:
    if row.outputs_equal is None:
        return "–"
    if row.outputs_equal:
        return "yes"
    return f"no ({row.num_near_ties} near-ties)" if row.num_near_ties else "no"
