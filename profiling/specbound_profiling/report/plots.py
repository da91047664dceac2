"""Plots of calibration: reliability, acceptance by signal, content and compression. Opens no window."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from specbound_profiling.report.records import Bin, ExitCalibration, LevelCalibration

SCORE_STYLES = {
    "annealed": {"color": "#f2c063", "linewidth": 3.5},
    "plain": {"color": "#c1440e", "marker": "o", "linewidth": 1.1},
    "temperature": {"color": "#7b4fa3", "marker": "s", "linewidth": 1.1},
    "logistic": {"color": "#2f6f9f", "marker": "^", "linewidth": 1.1},
    "isotonic": {"color": "#3a8f5c", "marker": "v", "linewidth": 1.1},
}
"""Drawn in reliability diagrams; `annealed` is broad and lies below, since it may equal `plain`."""
_GREY = "#888888"


def png(figure: Figure) -> bytes:
    """The figure as a PNG file; the same figure gives the same bytes.

    Of 256 colours, which plots have no more of to tell apart: pages that hold plots are then half as large.
    """
    drawn, file = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    Image.open(drawn).convert("RGB").quantize(256).save(file, format="PNG", optimize=True)
    return file.getvalue()


def reliability_figure(level: LevelCalibration) -> Figure:
    """One diagram for each exit: predicted probability against the share accepted, before and after correction."""
    exits = level.of_task("all")
    columns = min(5, len(exits))
    rows = math.ceil(len(exits) / columns)
    figure = Figure(figsize=(2.3 * columns + 0.6, 2.4 * rows + 0.7), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(exits) :]:
        axes.set_axis_off()
    for axes, each in zip(grid.flat, exits, strict=False):
        axes.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8, linestyle="--")
        for name, style in SCORE_STYLES.items():
            _line(axes, each.reliability[name], label=name, markersize=3, **style)
        axes.set_title(f"exit {each.exit_layer}", fontsize=9)
        frame(axes)
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
    figure.supxlabel("predicted probability of acceptance", fontsize=9)
    figure.supylabel("share accepted", fontsize=9)
    if level.few:
        figure.text(0.01, 0.005, level.few, fontsize=7, color="#c1440e")
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=8, frameon=False)
    return figure


def acceptance_figure(level: LevelCalibration) -> Figure:
    """Share of accepted drafts against confidence and against entropy, one line for each exit."""
    exits = level.of_task("all")
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    by_confidence, by_entropy = figure.subplots(1, 2, sharey=True)
    for each, colour in zip(exits, _shades(len(exits)), strict=True):
        style = {"color": colour, "marker": "o", "markersize": 3, "linewidth": 1.3}
        _line(by_confidence, each.by_confidence, label=f"exit {each.exit_layer}", **style)
        _line(by_entropy, each.by_entropy, **style)
    for axes, label in ((by_confidence, "confidence"), (by_entropy, "entropy, nats")):
        axes.set_xlabel(label, fontsize=9)
        axes.set_ylim(0, 1.02)
        frame(axes)
    by_confidence.set_xlim(0, 1.02)
    by_confidence.set_ylabel("share accepted", fontsize=9)
    figure.legend(loc="outside right center", fontsize=8, frameon=False)
    return figure


def groups_figure(groups: Mapping[str, Sequence[ExitCalibration]]) -> Figure:
    """Acceptance, and calibration error of plain and of logistic confidence, by exit: a line for each group.

    groups: kinds of content or compression levels, each with its exits; `all` is drawn in black.
    """
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    acceptance, error = figure.subplots(1, 2)
    for index, (name, exits) in enumerate(groups.items()):
        layers = [each.exit_layer for each in exits]
        style = {
            "color": "#333333" if name == "all" else colormaps["tab10"](index % 10),
            "marker": "o",
            "markersize": 3,
        }
        acceptance.plot(layers, [each.acceptance for each in exits], label=name, **style)
        error.plot(layers, _errors(exits, "plain"), **style)
        error.plot(layers, _errors(exits, "logistic"), linestyle=":", **style)
    acceptance.set_ylabel("share accepted", fontsize=9)
    acceptance.set_ylim(0, 1.02)
    error.set_ylabel("ECE: plain (line), logistic (dots)", fontsize=9)
    error.set_ylim(bottom=0)
    for axes in (acceptance, error):
        axes.set_xlabel("exit layer", fontsize=9)
        frame(axes)
    figure.legend(loc="outside right center", fontsize=8, frameon=False)
    return figure


def _errors(exits: Sequence[ExitCalibration], score: str) -> list[float]:
    return [each.measures[score].ece for each in exits]


def _line(axes: Axes, bins: Sequence[Bin], **style: Any) -> None:
    axes.plot([b.value for b in bins], [b.share for b in bins], **style)


def _shades(count: int) -> list[tuple[float, float, float, float]]:
    """Dark for shallow exits to light for deep ones."""
    return [colormaps["viridis"](0.9 * i / max(1, count - 1)) for i in range(count)]


def frame(axes: Axes, grid: Literal["both", "x", "y"] = "both") -> None:
    """The look of every plot: a light grid behind what is drawn, no lines at the top and the right."""
    axes.grid(axis=grid, color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
