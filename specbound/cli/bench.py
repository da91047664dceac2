"""`specbound bench`: parse, measure, print the tables, write the folder."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from specbound.bench.config import BenchConfig
from specbound.cli.edge import hand_over, say, set_up, show
from specbound.cli.parsing import parse_config

if TYPE_CHECKING:
    from specbound.bench.result import BenchResult


WIDTH = 100
"""Least width of the tables, wherever they go."""


def run(argv: Sequence[str]) -> int:
    config = parse_config(BenchConfig, "bench", argv)
    set_up(config)
    from specbound.bench.output import extra_of, write_bench
    from specbound.bench.run import run_bench
    from specbound.bench.shape_run import run_shape
    from specbound.results.files import make_folder

    folder = None if config.out is None else make_folder(config.out, has_plots=True)
    if config.scaling:
        return _scaling(config)
    result = (run_bench if config.shape is None else run_shape)(config, say)
    if folder is not None:
        write_bench(result, folder)
    is_shape = config.shape is not None
    hand_over(config.json, lambda: _print(result, is_shape), result.rows, result.model, **extra_of(result))
    return 0 if result.is_trustworthy else 1


def _scaling(config: BenchConfig) -> int:
    from dataclasses import asdict
    from pathlib import Path

    from specbound.bench.output import write_scaling
    from specbound.bench.scaling import NOTES, measure_scaling
    from specbound.bench.tables import scaling_table

    series = measure_scaling(config.scaling, config.seed, say)
    if config.out is not None:
        write_scaling(series, NOTES, Path(config.out).expanduser())
    scaling = [asdict(each) for each in series]
    hand_over(config.json, lambda: show(scaling_table(series), width=WIDTH), [], {}, scaling=scaling, notes=NOTES)
    return 0


def _print(result: "BenchResult", is_shape: bool) -> None:
    from specbound.bench.tables import categories_table, shapes_table, totals_table

    by_category = None if is_shape else categories_table(result.rows)
    from specbound.results.headline import headline

    tables = [shapes_table(result.rows) if is_shape else totals_table(result.rows)]
    answer = headline(result.rows)
    show(
        *([answer] if answer else []),
        *tables,
        *([] if by_category is None else [by_category]),
        notes=result.notes,
        width=WIDTH,
    )
