"""Writes a benchmark's folder: tables as Markdown, plots, answers in Spec-Bench's form."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from specbound.bench.result import BenchResult
from specbound.bench.scaling import Series
from specbound.bench.specbench import write_answers
from specbound.bench.tables import scaling_table, whole_table, with_notes
from specbound.results.files import write_file
from specbound_profiling.report.plots import png


def write_bench(result: BenchResult, folder: Path) -> None:
    """`bench.md`, the plots, and `answers/METHOD.jsonl` where questions were answered."""
    from specbound.bench.plots import breakdown_figure, map_figure, speedup_figure

    _write_text(folder / "bench.md", with_notes(whole_table(result.rows), result.notes))
    write_file(folder / "speedup.png", png(speedup_figure(result.rows)))
    if result.breakdowns:
        write_file(folder / "step_time.png", png(breakdown_figure(result.breakdowns)))
    if result.speedup_map is not None:
        write_file(folder / "exits_and_widths.png", png(map_figure(*result.speedup_map)))
    if result.decode is None:
        return
    answers = folder / "answers"
    answers.mkdir(exist_ok=True)
    for level in result.levels:
        for method, timings in level.timings.items():
            name = method if level.exactness == "token" else f"{method}-{level.exactness}"
            steps = [observation.step_tokens for observation in level.observations[method]]
            model = str(result.model["name"])
            write_answers(answers / f"{name}.jsonl", name, model, result.items, timings, steps, result.decode)


def write_scaling(series: Sequence[Series], notes: Sequence[str], folder: Path) -> None:
    """`scaling.md`, and one plot for each axis."""
    from specbound.bench.plots import scaling_figure

    _write_text(folder / "scaling.md", with_notes(scaling_table(series), notes))
    for axis in dict.fromkeys(each.axis for each in series):
        figure = scaling_figure(axis, [each for each in series if each.axis == axis])
        write_file(folder / f"scaling_{axis}.png", png(figure))


def _write_text(path: Path, text: str) -> None:
    write_file(path, text.encode("utf-8"))


def extra_of(result: BenchResult) -> dict[str, Any]:
    """What a report says beside the rows."""
    found: dict[str, Any] = {
        "notes": result.notes,
        "differences": [
            {"exactness": level.exactness, **asdict(difference), "verdict": difference.verdict}
            for level in result.levels
            for difference in level.differences
        ],
        "step_time": {
            name: {"num_steps": each.num_steps, "measured_s": each.measured_s, "parts_s": each.parts_s}
            for name, each in result.breakdowns.items()
        },
    }
    if result.speedup_map is not None:
        exits, speedups = result.speedup_map
        found["replayed_speedups"] = {"exit_layers": list(exits), "by_width": [list(row) for row in speedups]}
    return found
