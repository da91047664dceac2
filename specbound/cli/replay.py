"""`specbound replay`: parse, replay, print one table for each compression level and kind of content."""

import math
import sys
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from specbound.analysis.replay_config import ReplayConfig
from specbound.cli import speckv
from specbound.cli.parsing import parse_config

if TYPE_CHECKING:
    from rich.console import Console

    from specbound.analysis.live import LiveItem
    from specbound.analysis.replay import Replay, ReplayedRow

HEADINGS = (
    "tokens\nper s",
    "tokens\na step",
    "accept.\nrate",
    "layers\nper token",
    "speedup",
    "oracle's\ngain",
    "estimated\n± s.e.",
)


def run(argv: Sequence[str]) -> int:
    config = parse_config(ReplayConfig, "replay", argv)
    from specbound.results.report import build_report, check_destination, write_report

    check_destination(config.json)
    if config.speckv is not None:
        return speckv.run(config)
    from specbound.analysis.replay import replay_log
    from specbound.cli.edge import set_up

    set_up(config.threads)
    result = replay_log(config, lambda line: print(line, file=sys.stderr, flush=True))
    if config.json != "-":
        _print(result)
    if config.json is not None:
        live = [item.to_dict() for item in result.live]
        write_report(build_report(result.rows, result.model, live=live, notes=result.notes), config.json)
    return 1 if result.num_bugs else 0


def _print(result: "Replay") -> None:
    from rich.console import Console

    console = Console()
    for compression, rows in groupby(result.rows, key=lambda row: row.compression):
        _print_level(console, compression, list(rows))
    if result.live:
        _print_live(console, result.live)
    for note in result.notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)


def _print_level(console: "Console", compression: str, rows: Sequence["ReplayedRow"]) -> None:
    from rich.table import Table

    table = Table(
        title=f"{compression}, replayed: {rows[-1].num_prompts} prompts, {rows[-1].num_tokens} tokens",
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        header_style="bold",
    )
    table.add_column("content", no_wrap=True)
    table.add_column("policy", max_width=13)
    for heading in HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for task, of_task in groupby(rows, key=lambda row: row.task):
        for index, row in enumerate(of_task):
            table.add_row(task if index == 0 else "", row.method.replace("_", " "), *_cells(row))
        table.add_section()
    console.print(table)
    console.print()


def _cells(row: "ReplayedRow") -> tuple[str, ...]:
    from specbound.results.tables import number

    share = row.share_of_oracle_gain
    return (
        number(row.tokens_per_second, 1),
        number(row.tokens_per_step, 2),
        number(row.acceptance_rate, 2),
        number(row.layer_calls_per_token, 1),
        f"{row.speedup:.2f}x",
        "–" if math.isnan(share) or row.method == "plain" else f"{share:.0%}",
        _estimate(row),
    )


def _estimate(row: "ReplayedRow") -> str:
    """Estimated share of the seconds with its standard error; 0 where a replay is exact."""
    if row.estimated_share == 0:
        return "0"
    error = row.estimated_share_error
    return f"{100 * row.estimated_share:.1f}±{'?' if math.isnan(error) else f'{100 * error:.1f}'}%"


def _print_live(console: "Console", items: Sequence["LiveItem"]) -> None:
    from rich.table import Table

    for compression, of_level in groupby(items, key=lambda item: item.compression):
        title = f"{compression}, replayed against live, {max(item.num_prompts for item in items)} prompts"
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
        for name in ("policy", "figure"):
            table.add_column(name, no_wrap=True)
        for name in ("replayed", "live", "deviation", "allowed", "verdict"):
            table.add_column(name, justify="right", no_wrap=True)
        for policy, of_policy in groupby(of_level, key=lambda item: item.policy):
            for index, each in enumerate(of_policy):
                figures = (
                    f"{each.replayed:.3f}",
                    f"{each.live:.3f}",
                    f"{each.deviation:+.1%}",
                    f"{each.tolerance:.0%}",
                )
                verdict = "within" if each.is_within else "outside"
                name = policy.replace("_", " ") if index == 0 else ""
                table.add_row(name, each.item, *figures, verdict)
        console.print(table)
        console.print()
