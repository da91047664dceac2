"""Rows and their columns: one declaration of a field serves every table and JSON; cells are one table everywhere."""

import math
from dataclasses import dataclass

from specbound.decoding.stats import DecodeStats
from specbound.results.rows import Row, columns, shown
from specbound.results.tables import Cells, markdown, narrow, page_table, rows_table
from specbound_controller.figures import number

COUNTS = DecodeStats(
    num_tokens=9, num_steps=4, num_step_tokens=8, num_drafted=5, num_accepted=4, num_layer_calls=24, seconds=3.0
)


@dataclass(frozen=True, slots=True)
class WiderRow(Row):
    """A row with two figures more."""

    acceptance_rate: float = shown("accepted", lambda row: f"{row.acceptance_rate:.0%}")
    draft_length: float = shown("draft\nlength", lambda row: number(row.draft_length, 1))
    prompt_length: float = shown("prompt", lambda row: number(row.prompt_length, 0), is_wide=True)


def row_of(**values: object) -> WiderRow:
    return WiderRow.of(COUNTS, method="m", compression="none", task="code", num_prompts=1, **values)


def test_a_row_takes_every_figure_that_counts_have_and_given_ones_win() -> None:
    row = row_of(tokens_per_second=7.0)
    assert (row.num_tokens, row.tokens_per_step, row.acceptance_rate, row.layer_calls_per_token) == (9, 2.0, 0.8, 3.0)
    assert row.tokens_per_second == 7.0 and row_of().tokens_per_second == 3.0
    assert math.isnan(Row.of(DecodeStats(), method="m", compression="none", task="all", num_prompts=0).tokens_per_step)


def test_a_field_that_is_shown_is_a_column_of_its_rows_and_of_no_others() -> None:
    assert list(columns(WiderRow)) == [*columns(Row), "draft_length", "prompt_length"]
    assert {"speedup_low", "prompt_length"} == set(columns(WiderRow)) - set(narrow(columns(WiderRow)))
    ordered = list(columns(WiderRow, first=("speedup",), last=("outputs_equal",)))
    assert (ordered[:2], ordered[-1]) == (["speedup", "tokens_per_second"], "outputs_equal")
    assert sorted(ordered) == sorted(columns(WiderRow))
    table = rows_table("t", [row_of(draft_length=1.25)], columns(WiderRow), lambda row: row.method)
    heads, rule, cells = markdown(table).splitlines()
    assert heads.startswith("| content | method | tokens per s |") and heads.endswith("| draft length | prompt |")
    assert rule == "|---|---" + "|---:" * len(columns(WiderRow)) + "|"
    assert cells == "| code | m | 3.0 | 2.00 | 80% | 3.0 | – | – | – | 1.2 | – |"


def test_cells_are_escaped_on_a_page() -> None:
    page = page_table(Cells("t", ("name", "share"), [("<b>", "1 & 2")]))
    assert '<td class="text">&lt;b&gt;</td><td>1 &amp; 2</td>' in page and "<b>" not in page
