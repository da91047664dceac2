"""Cells of an evaluation's tables."""

import math
from types import SimpleNamespace
from typing import Any

from specbound.evaluation.compare import SpeedRatio
from specbound.evaluation.rows import Comparison, EvaluatedRow
from specbound.evaluation.rows import token_equality as equality
from specbound.evaluation.tables import comparison_table, gain_table, heading, speed_table
from specbound.results.tables import markdown


def row(method: str, task: str = "all", **changes: Any) -> EvaluatedRow:
    return EvaluatedRow(method, "int8", task, 5, 100, 50.0, exactness=changes.pop("exactness", "bitwise"), **changes)


ROWS = [
    row("plain", "code", speedup=1.0, outputs_equal=True),
    row("transformers", exactness="token", tokens_per_second_low=40.0, tokens_per_second_high=60.0),
    row("plain", exactness="token", outputs_equal=False, num_differing_tokens=7, tokens_per_second_low=50.0),
    row("plain", speedup=1.0, outputs_equal=True, share_of_oracle_gain=0.0, regret_to_oracle=0.5),
    row("controller", speedup=1.4, speedup_low=1.3, speedup_high=1.5, decision_s_per_step=0.000123, outputs_equal=True),
    row("oracle", speedup=2.0, simulated=True, share_of_oracle_gain=1.0, regret_to_oracle=0.0),
]
LEVEL: Any = SimpleNamespace(
    rows=ROWS, evaluation=SimpleNamespace(exactness="bitwise", compression="int8", is_sampled=False)
)


def test_every_row_of_every_table_has_a_cell_for_each_heading() -> None:
    comparisons = [Comparison("int8", "all", "plain", 5, SpeedRatio(1.4, 1.3, 1.5, 0.0002))]
    for cells in (speed_table(LEVEL), speed_table(LEVEL, False), gain_table(LEVEL), comparison_table(comparisons)):
        assert {len(each) for each in cells.rows} == {len(cells.headings)}
        assert markdown(cells).count("\n") == len(cells.rows) + 2


def test_methods_are_named_by_their_kernels_and_limits_are_marked() -> None:
    names = [cells[0] for cells in gain_table(LEVEL).rows]
    assert names == ["transformers", "plain, own kernels", "plain", "controller", "oracle*"]


def test_figures_are_shown_as_people_read_them() -> None:
    controller = gain_table(LEVEL).rows[3]
    assert controller[1:3] == ("1.40x", "1.30 to 1.50") and controller[6] == "123"
    assert heading(LEVEL) == "int8, exactness bitwise, greedy: 5 prompts, 100 tokens"


def test_a_new_kind_of_content_is_named_once() -> None:
    cells = speed_table(LEVEL)
    assert [each[0] for each in cells.rows] == ["all", "", "", "", "", "code"]
    assert cells.starts == {0, 5}


def test_equality_says_how_far_outputs_differ() -> None:
    assert equality(ROWS[2]) == "no (7 tokens)"
    assert equality(row("x", outputs_equal=False, num_near_ties=2, num_differing_tokens=30)) == "no (2≈)"
    assert equality(row("x")) == "–" and math.isnan(row("x").speedup)
