"""`specbound costs`: parse, measure, print the prices and the check."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from specbound.cli.parsing import parse_config
from specbound.pricing.config import CostsConfig

if TYPE_CHECKING:
    from specbound.pricing.costs import Costs
    from specbound_profiling.costs.check import KindCheck


def run(argv: Sequence[str]) -> int:
    config = parse_config(CostsConfig, "costs", argv)
    from specbound.cli.edge import set_up
    from specbound.pricing.costs import measure_all
    from specbound.results.report import build_report, check_destination, write_report

    if config.plot is not None:
        from specbound_profiling.costs.plot import plot_residuals  # first: without matplotlib nothing is measured
    check_destination(config.json)
    set_up(config.threads)
    costs = measure_all(config, lambda line: print(line, file=sys.stderr, flush=True))
    if config.plot is not None:
        plot_residuals(costs.measurements, Path(config.plot).expanduser())
    if config.json != "-":
        _print(costs)
    if config.json is not None:
        tables = {level: asdict(measured.table) for level, measured in costs.measurements.items()}
        checks = {
            level: [asdict(kind) | {"ratio": kind.ratio} for kind in kinds] for level, kinds in costs.checks.items()
        }
        write_report(build_report([], costs.model, costs=tables, checks=checks), config.json)
    return 0 if costs.is_within else 1


def _print(costs: "Costs") -> None:
    from rich.console import Console
    from rich.table import Table

    console, levels = Console(), list(costs.measurements)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("microseconds", no_wrap=True)
    for level in levels:
        table.add_column(level, justify="right")
    tables = [costs.measurements[level].table for level in levels]
    for name in tables[0].coefficients:
        table.add_row(name.replace("_", " "), *(f"{each.coefficients[name] * 1e6:.1f}" for each in tables))
    table.add_section()
    table.add_row("median error of steps left out", *(f"{each.held_out_error:.1%}" for each in tables))
    table.add_row("steps", *(str(each.num_steps) for each in tables))
    table.add_row("speed probe", *("–" if each.probe_s is None else f"{each.probe_s * 1e6:.1f}" for each in tables))
    table.add_row("exactness", *(each.exactness for each in tables))
    console.print(table)
    for level, kinds in costs.checks.items():
        console.print()
        _print_check(level, kinds)


def _print_check(level: str, kinds: "Sequence[KindCheck]") -> None:
    from rich.console import Console
    from rich.table import Table

    title = f"{level}, live against predicted, each step on average"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("kind of step", no_wrap=True)
    for name in ("steps", "live\nms", "pred.\nms", "live /\npred.", "live\ntok/s", "pred.\ntok/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for kind in sorted(kinds, key=lambda kind: kind.num_tokens / kind.live_s):
        seconds = (kind.live_s, kind.predicted_s)
        per_step = (f"{each / kind.num_steps * 1e3:.2f}" for each in seconds)
        speeds = (f"{kind.num_tokens / each:.1f}" for each in seconds)
        table.add_row(kind.kind, str(kind.num_steps), *per_step, f"{kind.ratio:.3f}", *speeds)
    Console().print(table)
