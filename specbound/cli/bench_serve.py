"""`specbound bench-serve`: parse, measure what is missing, print the table."""

from collections.abc import Sequence

from specbound.bench.load.config import LoadConfig
from specbound.cli.edge import hand_over, say, set_up, show
from specbound.cli.parsing import parse_config

WIDTH = 120
"""Least width of the table, wherever it goes."""


def run(argv: Sequence[str]) -> int:
    config = parse_config(LoadConfig, "bench-serve", argv)
    set_up(config)
    from dataclasses import asdict

    from specbound.bench.load.result import ratio_lines, table
    from specbound.bench.load.run import run_load
    from specbound.results.report import without_nan

    result = run_load(config, say)
    rows = result.rows()
    hand_over(
        config.json,
        lambda: show(*ratio_lines(result.ratios()), table(rows), notes=result.notes, width=WIDTH),
        [],
        {"name": config.model},
        load=without_nan([asdict(row) for row in rows]),
        ratios=result.ratios(),
        notes=result.notes,
    )
    return 0 if result.is_whole else 1
