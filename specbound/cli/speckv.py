"""What `specbound replay --speckv` prints: SpecKV's table, the wall clock, and what its features know."""

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from specbound.analysis.replay_config import ReplayConfig

if TYPE_CHECKING:
    from rich.table import Table

    from specbound.results.report import Row
    from specbound_profiling.speckv import FixedLength
    from specbound_train.speckv import Knowledge, SpecKVAnalysis


def run(config: ReplayConfig) -> int:
    """Analyses the files and prints, or writes JSON."""
    from specbound.results.report import build_report, write_report
    from specbound_train.speckv import analyse

    assert config.speckv is not None  # how the command came here
    analysis = analyse(config.speckv, config.speckv_clock)
    if config.json != "-":
        _print(analysis)
    if config.json is not None:
        model = {"name": "Llama-3.2-3B-Instruct drafted by Llama-3.2-1B-Instruct"}
        write_report(build_report(report_rows(analysis.fixed), model, speckv=analysis.to_dict()), config.json)
    return 0


def report_rows(fixed: Sequence["FixedLength"]) -> list["Row"]:
    """The measured lengths in the form of every report; speedups are over length 4 of the same level."""
    from specbound.results.report import Row

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
    from rich.console import Console

    console = Console()
    print(
        f"SpecKV's predictor fitted again: {analysis.num_steps} steps, {analysis.num_test_steps} held out by row; "
        f"test correlation {analysis.test_correlation:.3f}, MSE {analysis.test_mse:.4f} (published 0.685, 0.0896)\n"
    )
    console.print(_scores(analysis))
    print(f"speckv takes the longest draft in {analysis.share_of_longest:.1%} of these steps\n")
    console.print(_measured(analysis.fixed))
    for line in _changes(analysis.fixed):
        print(line)
    print()
    console.print(_knowledge(analysis.knowledge))


def _table(title: str, text: Sequence[str], numbers: Sequence[str]) -> "Table":
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in text:
        table.add_column(name, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _scores(analysis: "SpecKVAnalysis") -> "Table":
    from specbound_profiling.speckv import PUBLISHED

    levels = list(analysis.scores[0].by_level)
    title = "its table: tokens per step that its own predictor expects"
    table = _table(title, ["policy"], [*levels, "overall", "published"])
    for score in analysis.scores:
        cells = [f"{score.by_level[level]:.2f}" for level in levels]
        published = f"{PUBLISHED[score.policy]:.2f}" if score.policy in PUBLISHED else ""
        table.add_row(score.policy, *cells, f"{score.overall:.2f}", published)
    return table


def _measured(fixed: Sequence["FixedLength"]) -> "Table":
    numbers = ["tokens\nper step", "acceptance\nrate", "tokens per s,\nmean of runs", "tokens per s,\npooled"]
    table = _table("what was measured, by draft length", ["level", "length"], numbers)
    for level, of_level in groupby(fixed, key=lambda each: each.level):
        for index, each in enumerate(of_level):
            speeds = [each.tokens_per_second, each.pooled_tokens_per_second]
            cells = [f"{each.tokens_per_step:.2f}", f"{each.acceptance_rate:.2f}"]
            cells += ["–" if speed is None else f"{speed:.1f}" for speed in speeds]
            table.add_row(level if index == 0 else "", str(each.length), *cells)
        table.add_section()
    return table


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


def _knowledge(knowledge: Sequence["Knowledge"]) -> "Table":
    numbers = ["split\nby row", "split\nby prompt", "by prompt,\nlater steps"]
    table = _table("correlation with the acceptance rate, held out", ["features"], numbers)
    for each in knowledge:
        values = (each.by_row, each.by_prompt, each.by_prompt_later)
        table.add_row(each.features, *("–" if value is None else f"{value:.2f}" for value in values))
    return table
