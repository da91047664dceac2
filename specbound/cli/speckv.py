"""What `specbound replay --speckv` prints: SpecKV's table, the wall clock, and what its features know."""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from specbound.analysis.replay_config import ReplayConfig
from specbound.cli.edge import hand_over, show

if TYPE_CHECKING:
    from specbound.results.rows import Row
    from specbound.results.tables import Cells
    from specbound_profiling.speckv import FixedLength
    from specbound_train.speckv import Knowledge, SpecKVAnalysis


def run(config: ReplayConfig) -> int:
    """Analyses the files and prints, or writes JSON."""
    from specbound.results.report import check_destination
    from specbound_train.speckv import analyse

    assert config.speckv is not None  # how the command came here
    check_destination(config.json)
    analysis = analyse(config.speckv, config.speckv_clock)
    model = {"name": "Llama-3.2-3B-Instruct drafted by Llama-3.2-1B-Instruct"}
    rows = report_rows(analysis.fixed)
    hand_over(config.json, lambda: _print(analysis), rows, model, speckv=analysis.to_dict())
    return 0


def report_rows(fixed: Sequence["FixedLength"]) -> list["Row"]:
    """The measured lengths in the form of every report; speedups are over length 4 of the same level."""
    from specbound.results.rows import Row

    four = {each.level: each.tokens_per_second for each in fixed if each.length == 4}
    rows = []
    for each in fixed:
        speed, reference = each.tokens_per_second, four.get(each.level)
        rows.append(
            Row(
                method=f"fixed_{each.length}",
                compression=each.level,
                task="all",
                num_prompts=each.num_runs,
                num_tokens=each.num_tokens,
                tokens_per_second=float("nan") if speed is None else speed,
                tokens_per_step=each.tokens_per_step,
                acceptance_rate=each.acceptance_rate,
                speedup=speed / reference if speed is not None and reference is not None else float("nan"),
            )
        )
    return rows


def _print(analysis: "SpecKVAnalysis") -> None:
    show(
        f"SpecKV's predictor fitted again: {analysis.num_steps} steps, {analysis.num_test_steps} held out by row; "
        f"test correlation {analysis.test_correlation:.3f}, MSE {analysis.test_mse:.4f} (published 0.685, 0.0896)",
        _scores(analysis),
        f"speckv takes the longest draft in {analysis.share_of_longest:.1%} of these steps",
        _measured(analysis.fixed),
        *_changes(analysis.fixed),
        _knowledge(analysis.knowledge),
    )


def _scores(analysis: "SpecKVAnalysis") -> "Cells":
    from specbound.results.tables import Cells
    from specbound_profiling.speckv import PUBLISHED

    levels = list(analysis.scores[0].by_level)
    rows = []
    for score in analysis.scores:
        cells = [f"{score.by_level[level]:.2f}" for level in levels]
        published = f"{PUBLISHED[score.policy]:.2f}" if score.policy in PUBLISHED else ""
        rows.append([score.policy, *cells, f"{score.overall:.2f}", published])
    title = "its table: tokens per step that its own predictor expects"
    return Cells(title, ("policy", *levels, "overall", "published"), rows)


def _measured(fixed: Sequence["FixedLength"]) -> "Cells":
    from specbound.results.tables import grouped
    from specbound_controller.figures import number

    def cells(each: "FixedLength") -> list[str]:
        speeds = (math.nan if s is None else s for s in (each.tokens_per_second, each.pooled_tokens_per_second))
        figures = (f"{each.tokens_per_step:.2f}", f"{each.acceptance_rate:.2f}")
        return [str(each.length), *figures, *(number(speed, 1) for speed in speeds)]

    figures = ("tokens\nper step", "acceptance\nrate", "tokens per s,\nmean of runs", "tokens per s,\npooled")
    title = "what was measured, by draft length"
    return grouped(title, ("level", "length", *figures), fixed, lambda each: str(each.level), cells)


def _changes(fixed: Sequence["FixedLength"]) -> list[str]:
    """Length 8 against length 4, both ways to count, and the fastest length."""
    lines = []
    for level, group in groupby(fixed, key=lambda each: each.level):
        of_level = {each.length: each for each in group}
        speeds = {length: each.tokens_per_second for length, each in of_level.items() if each.tokens_per_second}
        if not {4, 8} <= speeds.keys():
            continue
        tokens = of_level[8].tokens_per_step / of_level[4].tokens_per_step - 1
        clock = speeds[8] / speeds[4] - 1
        best = max(speeds, key=lambda length: speeds[length])
        lines.append(
            f"{level}: length 8 against 4: {tokens:+.1%} tokens per step, {clock:+.1%} tokens per second; "
            f"the fastest fixed length is {best}"
        )
    return lines


def _knowledge(knowledge: Sequence["Knowledge"]) -> "Cells":
    from specbound.results.tables import Cells
    from specbound_controller.figures import number

    rows = []
    for each in knowledge:
        values = (math.nan if v is None else v for v in (each.by_row, each.by_prompt, each.by_prompt_later))
        rows.append((each.features, *(number(value, 2) for value in values)))
    headings = ("features", "split\nby row", "split\nby prompt", "by prompt,\nlater steps")
    return Cells("correlation with the acceptance rate, held out", headings, rows)
