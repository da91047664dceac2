"""Plots of a benchmark: speedups, where a step's time goes, exits and widths, growth. Opens no window."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from specbound.bench.efficiency import PARTS, REST, Breakdown, per_step_ms
from specbound.bench.rows import BenchRow
from specbound.bench.scaling import Series
from specbound.bench.tables import label
from specbound_controller.lookup import LOOKUP_EXIT
from specbound_profiling.report.plots import frame

_GREY = "#888888"


def speedup_figure(rows: Sequence[BenchRow]) -> Figure:
    """Bars of every method by kind of content, with 95 % intervals; methods without a claim are left out."""
    shown = [row for row in rows if not math.isnan(row.speedup)]
    tasks = list(dict.fromkeys(row.task for row in shown))
    methods = list(dict.fromkeys(label(row) for row in shown))
    found = {(label(row), row.task): row for row in shown}
    figure = Figure(figsize=(max(6.0, 0.16 * len(tasks) * len(methods) + 3.0), 4.2), layout="constrained")
    axes = figure.subplots()
    bar = 0.8 / max(1, len(methods))
    for index, method in enumerate(methods):
        of_method = [found.get((method, task)) for task in tasks]
        places = [place + (index - (len(methods) - 1) / 2) * bar for place in range(len(tasks))]
        heights = [math.nan if row is None else row.speedup for row in of_method]
        axes.bar(places, heights, width=bar, label=method, color=colormaps["tab20"](index % 20))
        for place, row in zip(places, of_method, strict=True):
            if row is not None and not math.isnan(row.speedup_low):
                axes.plot([place, place], [row.speedup_low, row.speedup_high], color="#333333", linewidth=0.8)
    axes.axhline(1.0, color=_GREY, linewidth=0.8)
    axes.set_xticks(range(len(tasks)), tasks)
    axes.set_ylabel("speedup over plain decoding", fontsize=9)
    frame(axes)
    figure.legend(loc="outside right center", fontsize=7, frameon=False)
    return figure


def breakdown_figure(breakdowns: Mapping[str, Breakdown]) -> Figure:
    """Milliseconds of an average step by part, one bar for each of our methods."""
    figure = Figure(figsize=(7.2, 0.5 * len(breakdowns) + 1.6), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(breakdowns))
    parts = [*PARTS, REST]
    heights = np.array([per_step_ms(each, parts) for each in breakdowns.values()])
    for index, part in enumerate(parts):
        axes.barh(list(breakdowns), heights[:, index], left=left, label=part, color=colormaps["tab10"](index))
        left += heights[:, index]
    axes.invert_yaxis()
    axes.set_xlabel("ms per step, parts at the cost table's prices", fontsize=9)
    frame(axes)
    figure.legend(loc="outside right center", fontsize=7, frameon=False)
    return figure


def map_figure(exits: Sequence[int], speedups: Sequence[Sequence[float]]) -> Figure:
    """Replayed speedup of fixed drafts against exit layer and width, width 0 being plain decoding. speedups: (E, K)"""
    figure = Figure(figsize=(6.4, 0.4 * len(exits) + 1.8), layout="constrained")
    axes = figure.subplots()
    values = np.array(speedups)
    image = axes.imshow(values, aspect="auto", cmap="viridis", origin="lower")
    for (row, column), value in np.ndenumerate(values):
        colour = "black" if value > (values.min() + 2 * values.max()) / 3 else "white"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
    axes.set_yticks(range(len(exits)), [str(e) if e != LOOKUP_EXIT else "lookup" for e in exits])
    axes.set_xticks(range(values.shape[1]))
    axes.set_xlabel("width", fontsize=9)
    axes.set_ylabel("exit layer", fontsize=9)
    axes.set_title("fixed drafts, replayed on the tuning prompts: speedup over plain decoding", fontsize=9)
    figure.colorbar(image, ax=axes)
    return figure


def scaling_figure(axis: str, of_axis: Sequence[Series]) -> Figure:
    """Measured seconds as dots, and the straight line that is expected of them."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for index, series in enumerate(of_axis):
        colour = colormaps["tab10"](index)
        axes.plot(series.values, [1e3 * s for s in series.seconds], "o", color=colour, label=series.name)
        ends = (min(series.values), max(series.values))
        fitted = [1e3 * (series.fit.fixed_s + series.fit.slope_s * end) for end in ends]
        axes.plot(ends, fitted, color=colour, linewidth=0.9, linestyle="--")
    axes.set_xlabel(axis, fontsize=9)
    axes.set_ylabel("ms", fontsize=9)
    axes.set_ylim(bottom=0)
    axes.set_title("dashed: growth in proportion, as expected", fontsize=9)
    axes.legend(fontsize=8, frameon=False)
    frame(axes)
    return figure
