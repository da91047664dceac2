"""Rows of a report as a table for people. Computes nothing."""

import math
from collections.abc import Sequence
from itertools import groupby

from rich.table import Table

from specbound.results.report import Row

LABELS = {
    "best_static": "best static",
    "oracle": "oracle*",
}
"""Method -> what the table calls it; others keep their name."""


HEADINGS = (
    "tokens\nper s",
    "tokens\nper step",
    "acceptance\nrate",
    "layer calls\nper token",
    "speedup",
    "outputs\nequal",
)


def results_table(rows: Sequence[Row]) -> Table:
    """One section for each kind of content, in the order of the rows. Fits 80 columns; * marks replayed methods."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("content", no_wrap=True)
    table.add_column("method", no_wrap=True)
    for heading in HEADINGS:
        table.add_column(heading, justify="right")
    for task, of_task in groupby(rows, key=lambda row: row.task):
        for index, row in enumerate(of_task):
            table.add_row(task if index == 0 else "", LABELS.get(row.method, row.method), *_cells(row))
        table.add_section()
    return table


def _cells(row: Row) -> tuple[str, ...]:
    return (
        number(row.tokens_per_second, 1),
        number(row.tokens_per_step, 2),
        number(row.acceptance_rate, 2),
        number(row.layer_calls_per_token, 1),
        times(row.speedup),
        equality(row),
    )


def number(value: float, digits: int) -> str:
    """A dash for nan."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def times(value: float) -> str:
    """A ratio; a dash for nan."""
    return "–" if math.isnan(value) else f"{value:.2f}x"


def share(value: float) -> str:
    """Per cent; a dash for nan."""
    return "–" if math.isnan(value) else f"{value:.0%}"


def equality(row: Row, unknown: str = "–", differing: str = "no") -> str:
    """Whether the outputs are plain decoding's; where only near-ties differ, how many."""
    if row.outputs_equal is None:
        return unknown
    if row.outputs_equal:
        return "yes"
    return f"no ({row.num_near_ties}≈)" if row.num_near_ties else differing
