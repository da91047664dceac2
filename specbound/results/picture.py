"""One picture of speeds from the reports that `--json` writes, a panel for each:

    python -m specbound.results.picture bench.json evaluate.json --out speed.svg

Bars are speedups over plain decoding of the same run, on all prompts together. Left out are rows without a claim, and
methods that `LABELS` does not name. Needs the extra `[report]`. Measures nothing.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specbound.results.files import write_whole
from specbound.results.report import SCHEMA
from specbound_controller.errors import InputError, MissingExtraError
from specbound_controller.text_files import read_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABELS = {
    "transformers": "transformers: generate",
    "assistant_model": "transformers: assisted decoding",
    "assistant_early_exit": "transformers: early exit",
    "prompt_lookup": "transformers: prompt lookup",
    "plain": "plain decoding, our loop",
    "best_static": "best fixed setting",
    "best_tree": "best draft tree",
    "controller": "trained controller",
    "oracle": "limit, replayed",
}
"""Method -> what the picture calls it, from top to bottom. The fastest variant of a method stands for all of them."""
SUFFIXES = (".svg", ".png")
_COLOURS = {"transformers": "#8c8c8c", "plain": "#5b5b5b", "best_static": "#2f6f9f", "controller": "#c1440e"}
_THEIRS, _REPLAYED = "#b4b4b4", "#d9c7bd"


@dataclass(frozen=True, slots=True)
class Bar:
    """One method of a panel."""

    method: str
    """A key of `LABELS`."""
    speedup: float
    """Over plain decoding of the same run."""
    low: float
    """Lower end of its 95 % interval; nan where there is none."""
    high: float
    """Upper end."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One report."""

    title: str
    bars: tuple[Bar, ...]


def panel_of(path: Path) -> Panel:
    """What a report says of the methods that the picture shows. Raises InputError, one line, where it is none."""
    try:
        report = read_json(path)
    except InputError as error:
        raise InputError(f"report {error}") from None
    if not isinstance(report, dict) or report.get("schema") != SCHEMA or not isinstance(report.get("rows"), list):
        raise InputError(f"{path} must be a report that --json of a command wrote (schema {SCHEMA})")
    try:
        return Panel(_title(report), _bars(report["rows"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} cannot be drawn: {error}") from None


def _title(report: Mapping[str, Any]) -> str:
    """The report's own `title`, else its command and number of prompts."""
    num_prompts = max(row["num_prompts"] for row in report["rows"])
    return str(report.get("title") or f"{' '.join(report['command'][:2])}, {num_prompts} prompts")


def _bars(rows: Sequence[Mapping[str, Any]]) -> tuple[Bar, ...]:
    fastest: dict[str, Mapping[str, Any]] = {}
    levels = {(row["compression"], row["exactness"]) for row in rows if row["method"] == "controller"}
    if len(levels) > 1:
        raise ValueError(f"it must hold one compression level and exactness, got {len(levels)}")
    for row in rows:
        method = _family(row["method"])
        if row["task"] != "all" or row["speedup"] is None or method not in LABELS:
            continue
        if method not in fastest or row["speedup"] > fastest[method]["speedup"]:
            fastest[method] = row
    if "plain" not in fastest:
        raise ValueError("it must hold plain decoding with a speedup; --allow-noise shows speedups of a busy machine")
    plain = fastest["plain"]["speedup"]
    return tuple(_bar(name, fastest[name], plain) for name in LABELS if name in fastest)


def _family(method: str) -> str:
    """Variants of transformers' early exit count as one method."""
    return "assistant_early_exit" if method.startswith("assistant_early_exit") else method


def _bar(method: str, row: Mapping[str, Any], plain: float) -> Bar:
    ends = (row.get("speedup_low"), row.get("speedup_high"))
    low, high = (math.nan if end is None else end / plain for end in ends)
    return Bar(method, row["speedup"] / plain, low, high)


def speed_figure(panels: Sequence[Panel]) -> "Figure":
    """The panels one below the other, on one axis of speedup."""
    from matplotlib.figure import Figure

    heights = [len(panel.bars) + 0.6 for panel in panels]
    figure = Figure(figsize=(8.2, 0.34 * sum(heights) + 0.6), layout="constrained", facecolor="white")
    grid = figure.subplots(len(panels), 1, squeeze=False, sharex=True, height_ratios=heights)
    for axes, panel in zip(grid[:, 0], panels, strict=True):
        _draw(axes, panel)
    longest = max(bar.speedup if math.isnan(bar.high) else bar.high for panel in panels for bar in panel.bars)
    grid[0, 0].set_xlim(0, 1.12 * longest)
    grid[-1, 0].set_xlabel("speed over plain decoding in the same run (thin lines: 95 % interval)", fontsize=9)
    return figure


def _draw(axes: "Axes", panel: Panel) -> None:
    for place, bar in enumerate(panel.bars):
        colour = _REPLAYED if bar.method == "oracle" else _COLOURS.get(bar.method, _THEIRS)
        axes.barh(place, bar.speedup, height=0.72, color=colour)
        end = bar.speedup
        if not math.isnan(bar.low):
            axes.plot([bar.low, bar.high], [place, place], color="#222222", linewidth=0.9)
            end = max(end, bar.high)
        axes.text(end, place, f"  {bar.speedup:.2f}x", va="center", fontsize=8.5)
    axes.axvline(1.0, color="#5b5b5b", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(panel.bars)), [LABELS[bar.method] for bar in panel.bars], fontsize=9)
    axes.invert_yaxis()
    axes.set_title(panel.title, fontsize=9, loc="left", color="#333333")
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def image(figure: "Figure", suffix: str) -> bytes:
    """The figure as `.svg` (its text stays text) or `.png`; the same figure gives the same bytes."""
    import matplotlib

    buffer = BytesIO()
    metadata: dict[str, Any] = {"Date": None} if suffix == ".svg" else {"Software": None}
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "specbound"}):
        figure.savefig(buffer, format=suffix[1:], dpi=110, metadata=metadata)
    return buffer.getvalue()


def draw(reports: Sequence[Path], out: Path) -> None:
    """Draws the picture, whole or not at all. Raises InputError for what cannot be read or written."""
    if out.suffix not in SUFFIXES:
        raise InputError(f"out must end with {' or '.join(SUFFIXES)}, got {out}")
    panels = [panel_of(path.expanduser()) for path in reports]
    try:
        content = image(speed_figure(panels), out.suffix)
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        raise MissingExtraError("a picture", "report") from None
    try:
        write_whole(out.expanduser(), content)
    except OSError as error:
        raise InputError(f"out must name a file that can be written, got {out} ({error.strerror})") from None


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; the exit code is 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m specbound.results.picture", description="Draws the speeds that reports hold."
    )
    parser.add_argument("reports", nargs="+", type=Path, help="JSON files of specbound bench, evaluate or demo --json")
    parser.add_argument("--out", required=True, type=Path, help="picture to write: FILE.svg or FILE.png")
    arguments = parser.parse_args(argv)
    try:
        draw(arguments.reports, arguments.out)
    except InputError as error:
        print(f"specbound: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
