"""The table of a suite: one section for each cell, a column for each kind of content. Measures nothing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from specbound.bench.suite.cell import Way
from specbound.bench.suite.store import MeasuredPrompt
from specbound.evaluation.rows import PLAIN_AT_TOKEN, EvaluatedRow, Evaluation, token_equality, with_oracle
from specbound.evaluation.timing import PROBE_TOLERANCE
from specbound.results.rows import interval, number
from specbound.results.tables import Cells

NAMES = {
    "transformers": "transformers generate",
    "prompt_lookup": "transformers prompt lookup",
    "assistant_early_exit": "transformers early exit",
    "best_static": "best static",
    "best_tree": "best tree",
    "oracle": "oracle (replayed)",
}
"""Method -> what the table calls it; others keep their name."""


@dataclass(frozen=True, slots=True)
class CellResult:
    """A finished cell."""

    way: Way
    evaluation: Evaluation
    rows: list[EvaluatedRow]
    """Every method on every kind of content, the oracle among them; no speedup where the machine was too busy."""
    ratios: Mapping[tuple[str, str], float]
    """(method, task) -> tokens per second over the reference's, claimed or not"""
    notes: list[str]
    slowdown: float
    """Of the same matrix product over the cell, 0.1 is 10 %"""

    @property
    def is_trustworthy(self) -> bool:
        """Whether every method that promises plain decoding's output kept it."""
        return not self.evaluation.refused


def cell_result(
    way: Way, prompts: Sequence[MeasuredPrompt], notes: Sequence[str], num_layers: int, seed: int, allow_noise: bool
) -> CellResult:
    """From what was measured to rows."""
    names = list(prompts[0].timings)
    evaluation = Evaluation(
        [prompt.timed(way.sampling(seed)) for prompt in prompts],
        {name: [prompt.timings[name] for prompt in prompts] for name in names},
        [difference for prompt in prompts for difference in prompt.differences],
        way.compression,
        num_layers,
        seed,
        way.exactness,
        way.without_claim,
    )
    ratios = {
        (name, task): evaluation.speed_ratio(name, evaluation.reference, evaluation.indices(task)).ratio
        for name in names
        for task in evaluation.tasks
    }
    rows = evaluation.timed_rows()
    for task in evaluation.tasks:
        row = _oracle_row(evaluation, prompts, task)
        ratios["oracle", task] = row.speedup
        rows.append(row)
    samples = [sample for prompt in prompts for sample in prompt.probe_s]
    slowdown = max(samples) / min(samples) - 1.0
    is_shown = slowdown <= PROBE_TOLERANCE or allow_noise
    rows = with_oracle(row if is_shown else row.without_speedup() for row in rows)
    return CellResult(
        way, evaluation, rows, ratios, [*notes, *_notes(evaluation, prompts, slowdown, is_shown)], slowdown
    )


def _oracle_row(evaluation: Evaluation, prompts: Sequence[MeasuredPrompt], task: str) -> EvaluatedRow:
    """Replayed, priced relative to plain decoding's measured time; prefill as it was measured."""
    indices = evaluation.indices(task)
    modelled = sum(prompts[i].plain_s for i in indices)
    share = sum(prompts[i].oracle_s for i in indices) / modelled if modelled else 1.0
    seconds = evaluation.prefill_seconds(indices) + share * evaluation.decode_seconds(indices)
    tokens = float(evaluation.tokens("plain", indices).sum())
    return EvaluatedRow(
        method="oracle",
        compression=evaluation.compression,
        task=task,
        num_prompts=len(indices),
        num_tokens=int(tokens),
        tokens_per_second=tokens / seconds,
        speedup=tokens / seconds / evaluation.speed(evaluation.reference, indices),
        exactness=evaluation.exactness,
        simulated=True,
    )


def _notes(evaluation: Evaluation, prompts: Sequence[MeasuredPrompt], slowdown: float, is_shown: bool) -> list[str]:
    speed = evaluation.tokens_per_second("plain") / evaluation.tokens_per_second("transformers")
    loops, tokens = sum(prompt.is_loop_cut for prompt in prompts), sum(prompt.num_tokens for prompt in prompts)
    notes = [
        f"{len(prompts)} prompts, {tokens} tokens; speedups are "
        f"over {evaluation.reference}, in parentheses where no equal output is promised; plain decoding in our loop is "
        f"{speed:.2f}x as fast as transformers' generate; {loops} continuations cut where they loop",
        *(difference.describe() for difference in evaluation.differences),
    ]
    if PLAIN_AT_TOKEN in evaluation.timings:
        ratio = evaluation.tokens_per_second("plain") / evaluation.tokens_per_second(PLAIN_AT_TOKEN)
        notes.append(f"plain decoding on row-stable kernels makes {ratio:.2f} of the tokens/s that it makes on its own")
    if slowdown > PROBE_TOLERANCE:
        advice = "take the speeds with care" if is_shown else "no speedup is claimed; --allow-noise shows it"
        notes.append(f"the machine was busy: the same matrix product slowed down by {slowdown:.0%}; {advice}")
    return notes


def cell_table(cell: CellResult) -> Cells:
    """Methods by kinds of content."""
    tasks = cell.evaluation.tasks
    by_place = {(_key(row), row.task): row for row in cell.rows}
    rows = []
    for name in dict.fromkeys(_key(row) for row in cell.rows):
        total = by_place[name, "all"]
        ratios = [_ratio(by_place[name, task], cell.ratios[name, task]) for task in tasks]
        rows.append(
            (
                _label(name),
                *ratios,
                interval(total.speedup_low, total.speedup_high),
                number(total.tokens_per_second, 1),
                number(total.tokens_per_step, 2),
                "–" if total.simulated else token_equality(total),
            )
        )
    headings = ("method", *tasks, "95 % (all)", "tokens/s", "tokens per step", "outputs equal")
    way = f"sampled at {cell.way.temperature:g}" if cell.way.temperature else "greedy"
    return Cells(f"{cell.way.compression}, {way}, exactness {cell.way.exactness}", headings, rows)


def _key(row: EvaluatedRow) -> str:
    """Name under which a row's method was timed."""
    return PLAIN_AT_TOKEN if row.method == "plain" and _is_other_kernel(row) else row.method


def _is_other_kernel(row: EvaluatedRow) -> bool:
    return row.compression != "none" and row.exactness == "token"


def _label(name: str) -> str:
    return "plain, own kernels" if name == PLAIN_AT_TOKEN else NAMES.get(name, name)


def _ratio(row: EvaluatedRow, ratio: float) -> str:
    return f"({ratio:.2f}x)" if math.isnan(row.speedup) else f"{row.speedup:.2f}x"


def report_of(cells: Sequence[CellResult]) -> dict[str, Any]:
    """What a report says beside the rows."""
    return {
        "cells": [
            {
                "compression": cell.way.compression,
                "temperature": cell.way.temperature,
                "exactness": cell.way.exactness,
                "reference": cell.evaluation.reference,
                "contention": cell.slowdown,
                "is_trustworthy": cell.is_trustworthy,
                "ratios": [{"method": m, "task": t, "ratio": ratio} for (m, t), ratio in cell.ratios.items()],
                "notes": cell.notes,
            }
            for cell in cells
        ]
    }
