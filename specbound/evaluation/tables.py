"""The tables of an evaluation as cells, for the screen, Markdown and a page alike. Computes nothing."""

import math
from collections.abc import Iterable

from specbound.evaluation.level import LevelEvaluation
from specbound.evaluation.rows import Comparison, EvaluatedRow
from specbound.results.rows import Row, columns
from specbound.results.tables import Cells, for_people, grouped, narrow, rows_table
from specbound_controller.figures import interval, number

ORACLES = ("oracle_grid", "oracle")


def heading(level: LevelEvaluation) -> str:
    """What was measured, in one line."""
    evaluation = level.evaluation
    total = next(row for row in level.rows if row.method == "plain" and row.task == "all")
    way = "sampled" if evaluation.is_sampled else "greedy"
    amount = f"{total.num_prompts} prompts, {total.num_tokens} tokens"
    return f"{evaluation.compression}, exactness {evaluation.exactness}, {way}: {amount}"


def speed_table(level: LevelEvaluation, has_intervals: bool = True, by_kind: bool = True) -> Cells:
    """Every method on all prompts, then on every kind of content (by_kind: also where there are many); without
    intervals it fits 100 columns."""
    shown = {name: column for name, column in columns(EvaluatedRow).items() if name in columns(Row)}
    shown = shown if has_intervals else narrow(shown)
    return rows_table(
        "Speed", for_people(level.rows, by_kind), shown, lambda row: label(row, level.evaluation.exactness)
    )


def gain_table(level: LevelEvaluation) -> Cells:
    """What the speedups are worth, on all prompts: intervals, the way to the oracle, the price of deciding, rounds."""
    known = columns(EvaluatedRow, first=("speedup", "speedup_low"))
    shown = [known[name] for name in known if name in ("speedup", "speedup_low") or name not in columns(Row)]
    rows = [
        (label(row, level.evaluation.exactness), *(column.show(row) for column in shown))
        for row in level.rows
        if row.task == "all" and not (math.isnan(row.speedup) and math.isnan(row.tokens_per_second_low))
    ]
    return Cells("Gain", ("method", *(column.title for column in shown)), rows)


def comparison_table(comparisons: Iterable[Comparison]) -> Cells:
    """The controller over every other method, by kind of content."""

    def cells(each: Comparison) -> tuple[str, ...]:
        speed = each.speed
        p_value = number(speed.p_value, 4)
        bounds = interval(speed.low, speed.high, 3)
        return each.other.replace("_", " "), number(speed.ratio, 3), bounds, p_value, str(each.num_prompts)

    headings = ("content", "controller over", "ratio", "95 % interval", "p", "prompts")
    return grouped("Controller against the others", headings, comparisons, lambda each: str(each.task), cells)


def label(row: EvaluatedRow, exactness: str) -> str:
    """What a table calls the method; * marks replayed ones."""
    name = row.method.replace("_", " ") + ("*" if row.method in ORACLES else "")
    return f"{name}, own kernels" if row.method == "plain" and row.exactness != exactness else name
