"""`specbound results`: parse, measure what is missing, print each cell's table as it is finished, write the files."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from specbound.bench.suite.config import SuiteConfig
from specbound.cli.edge import hand_over, say, set_up, show
from specbound.cli.parsing import parse_config

if TYPE_CHECKING:
    from specbound.bench.suite.run import SuiteResult

WIDTH = 150
"""Least width of the tables, wherever they go."""


def run(argv: Sequence[str]) -> int:
    config = parse_config(SuiteConfig, "results", argv)
    set_up(config)
    from pathlib import Path

    from specbound.bench.suite.output import write_results
    from specbound.bench.suite.run import run_suite
    from specbound.bench.suite.table import cell_table, report_of

    def finished(result: "SuiteResult") -> None:
        write_results(result, Path(config.out).expanduser())
        if config.json != "-":
            show(cell_table(result.cells[-1]), notes=result.cells[-1].notes, width=WIDTH)

    result = run_suite(config, say, finished)
    rows = [row for cell in result.cells for row in cell.rows]
    hand_over(config.json, lambda: None, rows, result.model, **report_of(result.cells))
    return 0 if result.is_trustworthy else 1
