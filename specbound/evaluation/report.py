"""An evaluation as files: JSON for machines, Markdown and one self-contained page for people. Computes nothing."""

import base64
import html
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from matplotlib.figure import Figure

from specbound.evaluation.level import LevelEvaluation
from specbound.evaluation.markdown import TITLE, facts_of, tables_of, to_markdown
from specbound.evaluation.run import EvaluationResult, level_notes, to_report
from specbound.evaluation.tables import heading, label
from specbound.results.files import write_file
from specbound.results.report import without_nan
from specbound.results.tables import page_table
from specbound_profiling.report.plots import frame, png

_COLOURS = {"controller": "#c1440e", "plain": "#888888", "transformers": "#888888"}
_OTHERS, _REPLAYED = "#2f6f9f", "#cfdbe6"


def write_files(result: EvaluationResult, out: Path) -> list[Path]:
    """Writes evaluate.json, evaluate.md and evaluate.html, each whole or not at all. Raises InputError."""
    text = json.dumps(without_nan(to_report(result)), indent=2, allow_nan=False) + "\n"
    contents = {"evaluate.json": text, "evaluate.md": to_markdown(result), "evaluate.html": to_page(result)}
    return [write_file(out / name, content.encode("utf-8")) for name, content in contents.items()]


def to_page(result: EvaluationResult) -> str:
    """One page that needs nothing else."""
    style = (resources.files("specbound_profiling.report") / "page.css").read_text(encoding="utf-8")
    parts = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>specbound evaluate</title><style>\n{style}</style></head><body>",
        f'<h1>{TITLE}</h1>\n<p class="note">{html.escape(facts_of(result))}</p>',
        _list(result.notes),
        _image(png(speedup_figure(result.levels)), "Speedup by method and compression"),
    ]
    for level in result.levels:
        parts.append(f"<h2>{html.escape(heading(level))}</h2>")
        parts += [f"<h3>{html.escape(cells.title)}</h3>\n{page_table(cells)}" for cells in tables_of(level)]
        parts.append(_list(level_notes(level)))
    return "\n".join([*parts, "</body></html>\n"])


def speedup_figure(levels: Sequence[LevelEvaluation]) -> Figure:
    """Speedups on all prompts with their intervals, one panel for each level; replayed limits are pale."""
    shown = {level.evaluation.compression: [r for r in level.rows if r.task == "all"] for level in levels}
    height = 0.27 * max(len(rows) for rows in shown.values()) + 1.0
    figure = Figure(figsize=(max(6.5, 4.6 * len(levels)), height), layout="constrained")
    panels = figure.subplots(1, len(levels), squeeze=False)[0]
    for axes, level, rows in zip(panels, levels, shown.values(), strict=True):
        for index, row in enumerate(rows):
            colour = _REPLAYED if row.simulated else _COLOURS.get(row.method, _OTHERS)
            axes.barh(index, row.speedup, height=0.7, color=colour)
            axes.plot([row.speedup_low, row.speedup_high], [index, index], color="#222222", linewidth=1)
        axes.set_yticks(range(len(rows)), [label(row, level.evaluation.exactness) for row in rows], fontsize=8)
        axes.invert_yaxis()
        axes.axvline(1.0, color="#888888", linewidth=0.8)
        axes.set_title(f"{level.evaluation.compression}, {level.evaluation.exactness}", fontsize=9)
        frame(axes, grid="x")
    figure.supxlabel("speedup over plain decoding, 95 % interval over prompts; pale: replayed limits", fontsize=8)
    return figure


def _list(notes: Sequence[str]) -> str:
    return "<ul>\n" + "\n".join(f"<li>{html.escape(note)}</li>" for note in notes) + "\n</ul>"


def _image(content: bytes, caption: str) -> str:
    data = base64.b64encode(content).decode("ascii")
    return f'<h3>{caption}</h3>\n<img alt="{caption}" src="data:image/png;base64,{data}">'
