"""`specbound bench`: parse, measure, print the tables, write the folder."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from specbound.bench.config import BenchConfig
from specbound.cli.parsing import parse_config

if TYPE_CHECKING:
    from specbound.bench.result import BenchResult


WIDTH = 100
"""Least width of the tables, wherever they go."""


def run(argv: Sequence[str]) -> int:
    config = parse_config(BenchConfig, "bench", argv)
    from specbound.bench.output import extra_of, prepared_folder, write_bench
    from specbound.bench.run import run_bench
    from specbound.bench.shape_run import run_shape
    from specbound.cli.edge import set_up
    from specbound.results.report import build_report, check_destination, write_report

    check_destination(config.json)
    folder = prepared_folder(config.out)
    set_up(config.threads)
    if config.scaling:
        return _scaling(config)
    result = (run_bench if config.shape is None else run_shape)(config, _say)
    if config.json != "-":
        _print(result, is_shape=config.shape is not None)
    if folder is not None:
        write_bench(result, folder)
    if config.json is not None:
        write_report(build_report(result.rows, result.model, **extra_of(result)), config.json)
    return 0 if result.is_trustworthy else 1


def _scaling(config: BenchConfig) -> int:
    from dataclasses import asdict

    from rich.console import Console

    from specbound.bench.output import prepared_folder, write_scaling
    from specbound.bench.scaling import NOTES, measure_scaling
    from specbound.bench.tables import scaling_table
    from specbound.results.report import build_report, write_report

    series, folder = measure_scaling(config.scaling, config.seed, _say), prepared_folder(config.out)
    if config.json != "-":
        Console(width=max(WIDTH, Console().width)).print(scaling_table(series))
    if folder is not None:
        write_scaling(series, NOTES, folder)
    if config.json is not None:
        write_report(build_report([], {}, scaling=[asdict(each) for each in series], notes=NOTES), config.json)
    return 0


def _print(result: "BenchResult", is_shape: bool) -> None:
    from rich.console import Console

    from specbound.bench.tables import categories_table, shapes_table, totals_table

    console = Console(width=max(WIDTH, Console().width))
    console.print(shapes_table(result.rows) if is_shape else totals_table(result.rows))
    by_category = None if is_shape else categories_table(result.rows)
    if by_category is not None:
        console.print()
        console.print(by_category)
    for note in result.notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
