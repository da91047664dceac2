"""`specbound evaluate`: parse, measure every level, print its tables, write the files."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from specbound.cli.parsing import parse_config
from specbound.evaluation.config import EvaluateConfig
from specbound_controller.errors import MissingExtraError

if TYPE_CHECKING:
    from rich.console import Console

    from specbound.evaluation.run import EvaluationResult
    from specbound.evaluation.tables import Cells


def run(argv: Sequence[str]) -> int:
    config = parse_config(EvaluateConfig, "evaluate", argv)
    from specbound.cli.edge import set_up
    from specbound.evaluation.run import evaluate, to_report
    from specbound.results.files import make_folder
    from specbound.results.report import check_destination, write_report

    check_destination(config.json)
    if config.out is not None:
        if importlib.util.find_spec("matplotlib") is None:
            raise MissingExtraError("the page of --out", "report")
        make_folder(Path(config.out).expanduser())
    set_up(config.threads)
    finished: list[EvaluationResult] = []

    def keep(result: "EvaluationResult") -> None:
        """A level is done: prints it, and writes the files again."""
        finished[:] = [result]
        if config.json != "-":
            _print_level(result)
        if config.out is not None:
            from specbound.evaluation.report import write_files

            write_files(result, Path(config.out).expanduser())
        if config.json not in (None, "-"):
            write_report(to_report(result), str(config.json))

    try:
        result = evaluate(config, lambda line: print(line, file=sys.stderr, flush=True), keep)
    finally:
        if config.json == "-" and finished:
            write_report(to_report(finished[0]), "-")
    return 0 if result.is_trustworthy else 1


def _print_level(result: "EvaluationResult") -> None:
    """The tables and notes of the newest level, and before the first one what holds for all."""
    from rich.console import Console

    from specbound.evaluation.run import level_notes
    from specbound.evaluation.tables import comparison_table, gain_table, heading, speed_table

    console, level = Console(), result.levels[-1]
    notes = result.notes if len(result.levels) == 1 else []
    console.print(f"\n{heading(level)}\n", highlight=False, markup=False, style="bold")
    for cells in (speed_table(level, has_intervals=False), gain_table(level)):
        _print(console, cells)
    if level.comparisons:
        _print(console, comparison_table(each for each in level.comparisons if each.task == "all"))
    for note in (*notes, *level_notes(level)):
        console.print(note, highlight=False, markup=False, soft_wrap=True)


def _print(console: "Console", cells: "Cells") -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for index, name in enumerate(cells.headings):
        is_text = index < cells.num_texts
        table.add_column(name, no_wrap=is_text, justify="left" if is_text else "right")
    for index, row in enumerate(cells.rows):
        if index in cells.starts:
            table.add_section()
        table.add_row(*row)
    console.print(table)
    console.print()
