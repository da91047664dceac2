"""Writes a benchmark's folder: tables as Markdown, plots, answers in Spec-Bench's form."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from specbound.bench.result import BenchResult
from specbound.bench.scaling import Series
from specbound.bench.specbench import write_answers
from specbound.bench.tables import markdown, scaling_markdown
from specbound_controller.errors import InputError


def prepared_folder(out: str | None) -> Path | None:
    """The folder, made now, so that hours of work do not end in an error; None where none is asked for."""
    if out is None:
        return None
    folder = Path(out).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out must be a folder that can be written, got {out} ({error.strerror})") from None
    import matplotlib  # noqa: F401  # before anything is measured: plots need it

    return folder


def write_bench(result: BenchResult, folder: Path) -> None:
    """`bench.md`, the plots, and `answers/METHOD.jsonl` where questions were answered."""
    from specbound.bench.plots import breakdown_figure, map_figure, save, speedup_figure

    (folder / "bench.md").write_text(markdown(result.rows, result.notes), encoding="utf-8")
    save(speedup_figure(result.rows), folder / "speedup.png")
    if result.breakdowns:
        save(breakdown_figure(result.breakdowns), folder / "step_time.png")
    if result.speedup_map is not None:
        save(map_figure(*result.speedup_map), folder / "exits_and_widths.png")
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
    from specbound.bench.plots import save, scaling_figure

    (folder / "scaling.md").write_text(scaling_markdown(series, notes), encoding="utf-8")
    for axis in dict.fromkeys(each.axis for each in series):
        save(scaling_figure(axis, [each for each in series if each.axis == axis]), folder / f"scaling_{axis}.png")


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
