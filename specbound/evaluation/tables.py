"""The tables of an evaluation as cells, for the screen, Markdown and a page alike. Computes nothing."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from specbound.evaluation.level import LevelEvaluation
from specbound.evaluation.rows import Comparison, EvaluatedRow
from specbound.results import tables
from specbound.results.tables import number, share, times

ORACLES = ("oracle_grid", "oracle")


@dataclass(frozen=True, slots=True)
class Cells:
    """One table."""

    title: str
    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    num_texts: int
    """Columns of text before those of figures."""
    starts: frozenset[int] = frozenset()
    """Rows at which another kind of content begins."""


def heading(level: LevelEvaluation) -> str:
    """What was measured, in one line."""
    evaluation = level.evaluation
    total = next(row for row in level.rows if row.method == "plain" and row.task == "all")
    way = "sampled" if evaluation.is_sampled else "greedy"
    amount = f"{total.num_prompts} prompts, {total.num_tokens} tokens"
    return f"{evaluation.compression}, exactness {evaluation.exactness}, {way}: {amount}"


def speed_table(level: LevelEvaluation, has_intervals: bool = True) -> Cells:
    """Every method on every kind of content; without intervals it fits 100 columns."""
    headings = ["content", "method", "tokens/s", "tokens per step", "acceptance", "layer calls per token", "speedup"]
    headings += ["95 % interval"] * has_intervals + ["outputs equal"]
    rows: list[tuple[str, ...]] = []
    starts = set()
    for index, row in enumerate(level.rows):
        is_first = index == 0 or level.rows[index - 1].task != row.task
        if is_first:
            starts.add(index)
        cells = [row.task if is_first else "", label(row, level.evaluation.exactness)]
        cells += [number(row.tokens_per_second, 1), number(row.tokens_per_step, 2), number(row.acceptance_rate, 2)]
        cells += [number(row.layer_calls_per_token, 1), times(row.speedup)]
        cells += [interval(row.speedup_low, row.speedup_high)] * has_intervals + [equality(row)]
        rows.append(tuple(cells))
    return Cells("Speed", tuple(headings), rows, 2, frozenset(starts))


def gain_table(level: LevelEvaluation) -> Cells:
    """What the speedups are worth, on all prompts: intervals, the way to the oracle, the price of deciding, rounds."""
    headings = (
        "method",
        "speedup",
        "95 % interval",
        "over fastest",
        "oracle's gain",
        "regret",
        "µs to decide",
        "tokens/s by round",
    )
    rows = []
    for row in level.rows:
        if row.task == "all" and not (math.isnan(row.speedup) and math.isnan(row.tokens_per_second_low)):
            decision = "–" if math.isnan(row.decision_s_per_step) else f"{1e6 * row.decision_s_per_step:.0f}"
            rounds = (row.tokens_per_second_low, row.tokens_per_second_high)
            by_round = "–" if math.isnan(rounds[0]) else f"{rounds[0]:.1f} to {rounds[1]:.1f}"
            gain, regret = share(row.share_of_oracle_gain), share(row.regret_to_oracle)
            bounds = interval(row.speedup_low, row.speedup_high)
            name = label(row, level.evaluation.exactness)
            fastest = times(row.speed_over_fastest)
            rows.append((name, times(row.speedup), bounds, fastest, gain, regret, decision, by_round))
    return Cells("Gain", headings, rows, 1)


def comparison_table(comparisons: Iterable[Comparison]) -> Cells:
    """The controller over every other method, by kind of content."""
    rows: list[tuple[str, ...]] = []
    starts, task = set(), None
    for each in comparisons:
        if each.task != task:
            starts.add(len(rows))
        speed = each.speed
        p_value = "–" if math.isnan(speed.p_value) else f"{speed.p_value:.4f}"
        cells = (f"{speed.ratio:.3f}", interval(speed.low, speed.high, 3), p_value, str(each.num_prompts))
        rows.append((each.task if each.task != task else "", each.other.replace("_", " "), *cells))
        task = each.task
    headings = ("content", "controller over", "ratio", "95 % interval", "p", "prompts")
    return Cells("Controller against the others", headings, rows, 2, frozenset(starts))


def label(row: EvaluatedRow, exactness: str) -> str:
    """What a table calls the method; * marks replayed ones."""
    name = row.method.replace("_", " ") + ("*" if row.method in ORACLES else "")
    return f"{name}, own kernels" if row.method == "plain" and row.exactness != exactness else name


def interval(low: float, high: float, digits: int = 2) -> str:
    return "–" if math.isnan(low) else f"{low:.{digits}f} to {high:.{digits}f}"


def equality(row: EvaluatedRow) -> str:
    """Whether outputs are equal; else near-ties, or how many tokens differ."""
    return tables.equality(row, differing=f"no ({row.num_differing_tokens} tokens)")


def markdown(cells: Cells) -> str:
    """The table as Markdown."""
    rules = ["---"] * cells.num_texts + ["---:"] * (len(cells.headings) - cells.num_texts)
    rows = [cells.headings, rules, *cells.rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"
