"""Writes what a suite has so far: results.md and results.json, each whole or not at all."""

import json
from pathlib import Path

from specbound.bench.suite.run import SuiteResult
from specbound.bench.suite.table import cell_table, report_of
from specbound.bench.tables import with_notes
from specbound.results.files import write_file
from specbound.results.report import build_report, without_nan


def write_results(result: SuiteResult, folder: Path) -> None:
    """All cells that are finished."""
    rows = [row for cell in result.cells for row in cell.rows]
    report = build_report(rows, result.model, **report_of(result.cells))
    write_file(folder / "results.json", (json.dumps(without_nan(report), indent=2, allow_nan=False) + "\n").encode())
    machine, versions = report["machine"], report["versions"]
    software = f"specbound {versions['specbound']}, torch {versions['torch']}"
    head = f"Model {result.model['name']}, {machine['name']}; {software}."
    sections = [f"### {cell_table(cell).title}\n\n{with_notes(cell_table(cell), cell.notes)}" for cell in result.cells]
    write_file(folder / "results.md", "\n".join([head, "", *sections]).encode())
