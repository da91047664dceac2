"""Plots of the studies: one curve for each parameter, one pair of bars for each part. Opens no window."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from specbound_profiling.replay.studies import PARAMETERS, Ablation, StudyPoint
from specbound_profiling.report.plots import frame

_BLUE, _LIGHT, _RED = "#2f6f9f", "#a9c8de", "#c1440e"
_GREY = "#888888"
_LIVE_LEGEND = "; crosses: measured live; rings: replay of the same prompts"
NAMES = {"alpha": "α", "threshold": "threshold", "d_max": "depth bound d_max", "w_max": "width bound w_max"}


@dataclass(frozen=True, slots=True)
class LivePoint:
    """One setting, decoded and replayed on the same prompts: fewer than the curves are drawn from."""

    speedup: float
    replayed_speedup: float
    tokens_per_step: float
    replayed_tokens_per_step: float


def sensitivity_figure(points: Sequence[StudyPoint], live: Mapping[str, LivePoint]) -> Figure:
    """Speedup above, tokens per step below, one column for each parameter; the base's value is marked.

    live: label -> what was decoded, drawn as crosses; rings are replays of the same prompts.
    """
    base = next(point for point in points if point.parameter == "base")
    varied = [name for name in PARAMETERS if any(point.parameter == name for point in points)]
    figure = Figure(figsize=(3.0 * len(varied), 5.2), layout="constrained")
    grid = figure.subplots(2, len(varied), squeeze=False, sharex="col", sharey="row")
    for column, name in enumerate(varied):
        of_parameter = [point for point in points if point.parameter == name]
        values = [getattr(point.setting, name) for point in of_parameter]
        above, below = grid[0, column], grid[1, column]
        low, high = [p.speedup_low for p in of_parameter], [p.speedup_high for p in of_parameter]
        above.fill_between(values, low, high, color=_LIGHT, alpha=0.45, linewidth=0)
        above.plot(values, [point.speedup for point in of_parameter], color=_BLUE, marker="o", markersize=3)
        below.plot(
            values, [point.result.tokens_per_step for point in of_parameter], color=_BLUE, marker="o", markersize=3
        )
        measured = [(getattr(p.setting, name), live[p.label]) for p in (base, *of_parameter) if p.label in live]
        at = [value for value, _ in measured]
        _crosses(above, at, [p.speedup for _, p in measured], [p.replayed_speedup for _, p in measured])
        _crosses(below, at, [p.tokens_per_step for _, p in measured], [p.replayed_tokens_per_step for _, p in measured])
        for axes in (above, below):
            axes.axvline(getattr(base.setting, name), color=_GREY, linewidth=0.8, linestyle="--")
            axes.axhline(1.0, color=_GREY, linewidth=0.6)
            frame(axes)
        below.set_xlabel(NAMES[name], fontsize=9)
    grid[0, 0].set_ylabel("speedup over plain", fontsize=9)
    grid[1, 0].set_ylabel("tokens per step", fontsize=9)
    title = "dashed: the base setting; band: 95 % interval over prompts"
    figure.suptitle(title + (_LIVE_LEGEND if live else ""), fontsize=9)
    return figure


def ablation_figure(rows: Sequence[Ablation], live: Mapping[str, LivePoint]) -> Figure:
    """Speedup without each part, at the base's threshold and at one chosen for what is left. live: as above."""
    figure = Figure(figsize=(8, 0.62 * len(rows) + 1.3), layout="constrained")
    axes = figure.subplots()
    for index, row in enumerate(rows):
        for point, offset, colour in ((row.fixed, -0.19, _BLUE), (row.tuned, 0.19, _LIGHT)):
            axes.barh(index + offset, point.speedup, height=0.34, color=colour)
            axes.plot([point.speedup_low, point.speedup_high], [index + offset] * 2, color="#333333", linewidth=1)
        label = row.fixed.label
        if label in live:
            at = index - 0.19
            _crosses(axes, [live[label].speedup], [at], [at], [live[label].replayed_speedup])
    axes.set_yticks(range(len(rows)), [row.fixed.label for row in rows], fontsize=9)
    axes.invert_yaxis()
    axes.axvline(1.0, color=_GREY, linewidth=0.8)
    axes.set_xlabel(
        "speedup over plain, with 95 % interval; dark: the base's threshold, light: chosen again"
        + (_LIVE_LEGEND if live else ""),
        fontsize=8,
    )
    frame(axes)
    return figure


def _crosses(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float],
    replayed_y: Sequence[float],
    replayed_x: Sequence[float] | None = None,
) -> None:
    axes.plot(x, y, "x", color=_RED, markersize=7)
    rings = x if replayed_x is None else replayed_x
    axes.plot(rings, replayed_y, "o", color=_RED, markersize=7, markerfacecolor="none", markeredgewidth=0.8)
