"""The sentence before a table says what the rows say, with its doubts; tables fit narrow terminals."""

import math
from dataclasses import replace

import pytest

from specbound.results.headline import headline
from specbound.results.rows import Row
from specbound.results.tables import Cells, for_people, kinds_note, results_table

PLAIN = Row("plain", "none", "all", 24, 900, tokens_per_second=20.0, speedup=1.0, outputs_equal=True)
BEST = replace(PLAIN, method="best_static", speedup=1.34, speedup_low=1.22, speedup_high=1.47)
ORACLE = replace(PLAIN, method="oracle", speedup=3.0, simulated=True, outputs_equal=None)


def test_fastest_policy_is_named_with_its_interval_and_never_the_limit() -> None:
    other = replace(BEST, method="tree7", speedup=1.1)
    expected = "Fastest is best static: 1.34x plain decoding (1.22 to 1.47 over 24 prompts), outputs equal."
    assert headline([PLAIN, other, BEST, ORACLE, replace(BEST, task="code", speedup=9.0)]) == expected


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"speedup": 0.93, "speedup_low": 0.9, "speedup_high": 0.97}, "No method is faster than plain decoding"),
        ({"speedup_low": 0.98}, "holds 1.00x"),
        ({"num_prompts": 6}, "6 prompts are few"),
        ({"speedup_low": math.nan, "speedup_high": math.nan}, "1.34x plain decoding on 24 prompts, outputs"),
        ({"outputs_equal": False, "num_near_ties": 2}, "equal but for 2 near-ties"),
        ({"outputs_equal": False}, "OUTPUTS DIFFER"),
        ({"simulated": True}, "by replay"),
    ],
)
def test_doubts_stand_in_the_sentence(change: dict[str, object], words: str) -> None:
    text = headline([PLAIN, replace(BEST, **change)])  # type: ignore[arg-type]
    assert words in text and "nan" not in text


def test_nothing_is_said_where_no_speedup_is_shown() -> None:
    assert headline([PLAIN, BEST.without_speedup(), ORACLE]) == ""


def rows_of(num_kinds: int) -> list[Row]:
    return [replace(row, task=task) for task in [*map(str, range(num_kinds)), "all"] for row in (PLAIN, BEST)]


def test_totals_come_first_and_many_kinds_only_where_they_are_asked_for() -> None:
    few, many = rows_of(6), rows_of(7)
    assert [row.task for row in for_people(few)][:3] == ["all", "all", "0"] and len(for_people(few)) == 14
    assert {row.task for row in for_people(many)} == {"all"} and kinds_note(many) == [
        "7 kinds of content: --by-kind shows each"
    ]
    assert len(for_people(many, by_kind=True)) == 16 and not kinds_note(many, by_kind=True) and not kinds_note(few)
    assert results_table(many).rows[0][0] == "all"


def test_narrow_terminals_lose_columns_from_the_right_and_never_the_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from specbound.cli.edge import show

    name = "lookup0.35_exit2_width2_annealed0.35_token"
    table = Cells("", ("method", *(f"figure {i}" for i in range(9))), [(name, *(["1.00"] * 9))])
    monkeypatch.setenv("COLUMNS", "70")
    show(table)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 70 and name in lines[1] and lines[1].count("1.00") == 3
    monkeypatch.delenv("COLUMNS")
    show(table)
    assert capsys.readouterr().out.splitlines()[1].count("1.00") == 9
