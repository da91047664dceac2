"""Tables as cells, for the terminal, Markdown and a page alike. Computes nothing."""

import html
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, TypeVar

from rich.table import Table

from specbound.results.rows import Column, Row, columns

R = TypeVar("R", bound=Row)

LABELS = {
    "prompt_lookup": "transformers lookup",
    "best_static": "best static",
    "best_tree": "best tree",
    "oracle": "oracle*",
}
"""Method -> what the table calls it; others keep their name."""


@dataclass(frozen=True, slots=True)
class Cells:
    """One table."""

    title: str
    headings: Sequence[str]
    """With line breaks where the terminal is narrow."""
    rows: Sequence[Sequence[str]]
    num_texts: int = 1
    """Columns of text before those of figures."""
    starts: Collection[int] = ()
    """Rows at which another section begins."""

    def fitting(self, width: int, measure: Callable[["Cells"], int]) -> "Cells":
        """The same without its last columns, until it is no wider; names always stay, and one figure."""
        cells = self
        while measure(cells) > width and len(cells.headings) > self.num_texts + 1:
            cells = replace(cells, headings=cells.headings[:-1], rows=[row[:-1] for row in cells.rows])
        return cells

    def __rich__(self) -> Table:
        """For a terminal."""
        table = Table(title=self.title or None, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
        for index, name in enumerate(self.headings):
            is_text = index < self.num_texts
            table.add_column(name, no_wrap=is_text, justify="left" if is_text else "right", header_style="bold")
        for index, row in enumerate(self.rows):
            if index in self.starts:
                table.add_section()
            table.add_row(*row)
        return table


MANY_KINDS = 6
"""Kinds of content above which tables for people show the totals alone, unless they are asked for."""


def for_people(rows: Sequence[R], by_kind: bool = False) -> list[R]:
    """Totals first, then every kind of content where there are few or they are asked for."""
    kinds = {row.task for row in rows} - {"all"}
    totals = [row for row in rows if row.task == "all"]
    return totals if len(kinds) > MANY_KINDS and not by_kind else [*totals, *(r for r in rows if r.task != "all")]


def kinds_note(rows: Sequence[Row], by_kind: bool = False) -> list[str]:
    """What was left out, one line; nothing where all is shown."""
    kinds = {row.task for row in rows} - {"all"}
    return [f"{len(kinds)} kinds of content: --by-kind shows each"] if len(kinds) > MANY_KINDS and not by_kind else []


def grouped(
    title: str,
    headings: Sequence[str],
    items: Iterable[Any],
    group: Callable[[Any], str],
    cells: Callable[[Any], Sequence[str]],
    num_texts: int = 2,
) -> Cells:
    """A table with one section for each run of items of one group, which its first row names in the first column."""
    rows: list[tuple[str, ...]] = []
    starts = set()
    for name, of_group in groupby(items, key=group):
        starts.add(len(rows))
        rows += [("" if index else name, *cells(item)) for index, item in enumerate(of_group)]
    return Cells(title, headings, rows, num_texts, starts)


def rows_table(
    title: str, rows: Iterable[Row], shown: Mapping[str, Column], label: Callable[[Any], str], what: str = "method"
) -> Cells:
    """Rows of a report by kind of content, with the columns that are to be shown."""
    headings = ("content", what, *(column.title for column in shown.values()))
    return grouped(
        title,
        headings,
        rows,
        lambda row: str(row.task),
        lambda row: (label(row), *(column.show(row) for column in shown.values())),
    )


def narrow(shown: Mapping[str, Column]) -> dict[str, Column]:
    """The columns that a terminal has room for."""
    return {name: column for name, column in shown.items() if not column.is_wide}


def results_table(rows: Sequence[Row], by_kind: bool = False) -> Cells:
    """Totals first, then kinds of content, where there are few or they are asked for. * marks replayed methods."""
    return rows_table(
        "", for_people(rows, by_kind), narrow(columns(Row)), lambda row: LABELS.get(row.method, row.method)
    )


def markdown(cells: Cells) -> str:
    """The table as Markdown."""
    headings = [heading.replace("\n", " ") for heading in cells.headings]
    rule = "|---" * cells.num_texts + "|---:" * (len(headings) - cells.num_texts) + "|"
    return "\n".join([_line(headings), rule, *map(_line, cells.rows)]) + "\n"


def _line(values: Iterable[str]) -> str:
    return f"| {' | '.join(value.replace('|', chr(92) + '|') for value in values)} |"


def page_table(cells: Cells) -> str:
    """The table as HTML."""

    def row(values: Sequence[str], tag: str) -> str:
        names = [' class="text"' if index < cells.num_texts else "" for index in range(len(values))]
        pairs = zip(values, names, strict=True)
        return "<tr>" + "".join(f"<{tag}{name}>{html.escape(value)}</{tag}>" for value, name in pairs) + "</tr>"

    body = "\n".join(row(values, "td") for values in cells.rows)
    return f'<div class="scroll"><table><thead>{row(cells.headings, "th")}</thead>\n<tbody>{body}</tbody></table></div>'
