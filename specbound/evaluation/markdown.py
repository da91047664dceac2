"""An evaluation as Markdown: tables and notes. Computes nothing, draws nothing."""

from pathlib import Path

from specbound import __version__
from specbound.evaluation.level import LevelEvaluation
from specbound.evaluation.run import EvaluationResult, level_notes
from specbound.evaluation.tables import comparison_table, gain_table, heading, speed_table
from specbound.results.report import machine_info
from specbound.results.tables import Cells, markdown

TITLE = "What decoding with drafts is worth"


def to_markdown(result: EvaluationResult) -> str:
    """Tables and notes."""
    parts = [f"# {TITLE}\n", facts_of(result), "", *(f"* {note}" for note in result.notes)]
    for level in result.levels:
        parts += [f"\n## {heading(level)}\n"]
        for cells in tables_of(level):
            parts += [f"### {cells.title}\n", markdown(cells)]
        parts += [f"* {note.removeprefix('* ')}" for note in level_notes(level)]
    return "\n".join([*parts, ""])


def tables_of(level: LevelEvaluation) -> list[Cells]:
    """All tables of a level."""
    tables = [speed_table(level), gain_table(level)]
    return [*tables, comparison_table(level.comparisons)] if level.comparisons else tables


def facts_of(result: EvaluationResult) -> str:
    """Which model, on which machine, made by what; in one line, without paths."""
    model, machine = result.model, machine_info()
    parts = [
        f"model: {Path(model['name']).name} ({model['num_layers']} layers, {model['fingerprint'][:12]})",
        f"machine: {machine['name']}",
        f"made by: specbound {__version__}",
    ]
    return " · ".join(parts)
