"""Rows and shares of time from made-up timings: ratios of sums, claims, first tokens."""

import math
from dataclasses import replace

import pytest

from specbound.bench.efficiency import REST, breakdown
from specbound.bench.growth import fit_growth
from specbound.bench.observe import Observation
from specbound.bench.rows import BenchRow, Level
from specbound.bench.tables import COLUMNS, speedups, whole_table, with_notes
from specbound.decoding.stats import DecodeStats
from specbound.evaluation.differences import Difference
from specbound.evaluation.timing import TimedPrompt, Timing
from specbound_controller.costs import WORK_NAMES, CostTable
from specbound_controller.records import StepRecord


def cells(row: BenchRow) -> list[str]:
    return [column.show(row) for column in COLUMNS.values()]


PROMPTS = [TimedPrompt("p0", "a", None, 8), TimedPrompt("p1", "b", None, 8)]  # type: ignore[arg-type]


def observation(num_tokens: int, num_rows: int) -> Observation:
    stats = DecodeStats(num_tokens, 2, num_tokens - 1, 4, 2, 8)
    return Observation([0] * num_tokens, stats, num_rows, 0.25, (1,) * 2, 3 * 2**20)


def level(differences: tuple[Difference, ...] = (), **seconds: tuple[float, float]) -> Level:
    return Level(
        exactness="token",
        compression="none",
        num_layers=4,
        prompts=PROMPTS,
        timings={m: [Timing([0] * 4, runs_s=[a]), Timing([0] * 6, runs_s=[b])] for m, (a, b) in seconds.items()},
        observations={method: [observation(4, 9), observation(6, 15)] for method in seconds},
        settings={"fast": "exit1_width2"},
        differences=differences,
        breakdowns={},
        seed=0,
    )


def test_speeds_are_ratios_of_sums_over_the_faster_plain_method() -> None:
    rows = {(r.method, r.task): r for r in level(transformers=(1.0, 3.0), plain=(1.5, 3.5), fast=(1.0, 1.0)).rows()}
    assert rows["plain", "all"].tokens_per_second == pytest.approx(10 / 5)
    assert rows["transformers", "all"].speedup == 1.0  # the reference
    assert rows["fast", "all"].speedup == pytest.approx(2.0) and rows["fast", "b"].speedup == pytest.approx(3.0)
    fast = rows["fast", "all"]
    assert (fast.setting, fast.peak_memory_bytes, fast.time_to_first_token_s) == ("exit1_width2", 3 * 2**20, 0.25)
    assert fast.layer_rows_per_token == pytest.approx(24 / 8) and fast.acceptance_rate == 0.5


def test_a_wrong_output_takes_the_claim_away_but_not_the_ratio() -> None:
    difference = Difference("fast", "p1", 3, 5, 6, 1.0, 1e-6, False)
    rows = {(r.method, r.task): r for r in level((difference,), plain=(1.5, 3.5), fast=(1.0, 1.0)).rows()}
    assert math.isnan(rows["fast", "all"].speedup) and math.isnan(rows["fast", "a"].speedup)
    assert rows["fast", "all"].speed_ratio == pytest.approx(2.5)
    assert rows["fast", "all"].outputs_equal is False and rows["fast", "a"].outputs_equal is True
    assert cells(rows["fast", "all"])[2] == "(2.50x)" and cells(rows["plain", "all"])[2] == "1.00x"


def test_own_draws_are_not_compared() -> None:
    found = replace(level(plain=(1.5, 3.5), fast=(1.0, 1.0)), without_promise=frozenset({"fast"}))
    fast = next(row for row in found.rows() if row.method == "fast" and row.task == "all")
    assert fast.outputs_equal is None and cells(fast)[-1] == "own draw"


def test_a_busy_machine_leaves_no_speedup() -> None:
    rows = [row.without_speedup() for row in level(plain=(1.0, 1.0), fast=(0.5, 0.5)).rows()]
    assert all(math.isnan(row.speedup) and math.isnan(row.speed_ratio) for row in rows)
    assert cells(rows[0])[2] == "–"


def test_tables_hold_every_method_and_kind_of_content() -> None:
    rows = level(plain=(1.0, 1.0), fast=(0.5, 0.25)).rows()
    assert speedups(rows, ["a", "b", "all"]) == {
        "plain": ["1.00x"] * 3,
        "fast": ["2.00x", "4.00x", "2.67x"],
    }
    text = with_notes(whole_table(rows), ["a note"])
    assert text.count("\n| ") == 6 and text.endswith("\n* a note\n") and "| exit1_width2 |" in text


def test_shares_of_time_by_hand() -> None:
    prices = dict.fromkeys(WORK_NAMES, 0.0) | {
        "layer_calls_rows_1": 0.001,
        "layer_calls_rows_2": 0.002,
        "head_reads": 0.003,
        "head_rows": 0.001,
        "exit_tests": 0.5,
        "steps": 0.010,
    }
    record = StepRecord(5, 1, 1, 2, (1,), (math.nan,), (math.nan,), (math.nan,), "width", {1: 4, 2: 6}, {1: 1, 2: 1}, 0)
    found = breakdown([record, record], 0.1, CostTable(prices, "none", "here", 0.0, 30), is_adaptive=False)
    assert found is not None
    # layers 4 + 12 ms, head 2 x 3 + 3 x 1 ms, loop 10 ms a step
    assert found.parts_s["layers"] == pytest.approx(0.032) and found.parts_s["head"] == pytest.approx(0.018)
    assert found.efficiency == pytest.approx(0.5) and found.overhead_share == pytest.approx(0.5)
    assert found.parts_s[REST] == pytest.approx(0.1 - 0.05 - 0.02)
    assert breakdown([], 0.1, CostTable(prices, "none", "here", 0.0, 30), is_adaptive=False) is None


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_the_exponent_of_growth_is_found(power: float) -> None:
    values = (64, 128, 256, 512, 1024)
    fit = fit_growth(values, [0.01 + 1e-5 * value**power for value in values])
    assert fit.exponent == pytest.approx(power, abs=0.05)
    if power == 1.0:
        assert fit.slope_s == pytest.approx(1e-5) and fit.fixed_s == pytest.approx(0.01)
        assert fit.largest_error < 1e-6


def test_what_does_not_grow_has_no_exponent() -> None:
    fit = fit_growth((1, 2, 4), (0.01, 0.0101, 0.0102))
    assert math.isnan(fit.exponent) and fit.fixed_s == pytest.approx(0.01, rel=0.02)
