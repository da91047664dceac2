"""Pictures of a training run: loss curves, importance of the features, chosen widths. Opens no window."""

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from specbound_profiling.report.plots import png
from specbound_train.modules import LossCurve
from specbound_train.report.importance import Importance

_BLUE, _RED = "#2f6f9f", "#c1440e"


def curves_png(curves: Mapping[str, LossCurve]) -> bytes:
    """One panel for each network, one line for each fold: loss on the fitted and on the held-out rows by epoch."""
    names = list(dict.fromkeys(name.rsplit("_fold", 1)[0] for name in curves))
    figure = Figure(figsize=(3.6 * len(names), 3.2), layout="constrained")
    grid = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, network in zip(grid, names, strict=True):
        own = [curve for name, curve in curves.items() if name.rsplit("_fold", 1)[0] == network]
        for index, curve in enumerate(own):
            for losses, colour, label in (
                (curve.train_loss, _BLUE, "fitted on"),
                (curve.tune_loss, _RED, "held-out fold"),
            ):
                axes.plot(losses, color=colour, linewidth=1.0, label=label if index == 0 else None)
        axes.set_title(network.replace("_", " "), fontsize=9)
        axes.set_xlabel("epoch; 0 is the best constant", fontsize=8)
    grid[0].set_ylabel("loss, nats per target", fontsize=8)
    grid[0].legend(fontsize=8, frameon=False)
    return png(figure)


def importance_png(values: Importance) -> bytes:
    """Bars: the random forest's importance, and the growth of the step policy's loss where a feature is shuffled."""
    order = np.argsort(values.forest)
    figure = Figure(figsize=(10.0, 0.24 * len(order) + 1.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    left.barh([values.names[i] for i in order], [values.forest[i] for i in order], color=_BLUE)
    r2 = "" if math.isnan(values.forest_r2) else f", R² {values.forest_r2:.2f} on validation prompts"
    left.set_title(f"random forest: accepted share of a draft{r2}", fontsize=9)
    left.set_xlabel("share of the variance taken away", fontsize=8)
    right.barh(
        [values.names[i] for i in order],
        [values.permutation[i] for i in order],
        xerr=[values.permutation_std[i] for i in order],
        color=_RED,
        ecolor="#888888",
    )
    right.set_title("step policy: growth of its loss by shuffling", fontsize=9)
    right.set_xlabel("nats per target, validation prompts", fontsize=8)
    for axes in (left, right):
        axes.tick_params(labelsize=7)
    return png(figure)


def widths_png(widths: Mapping[str, Mapping[int, int]]) -> bytes:
    """Share of the steps by the width bound that was chosen, one panel for each compression level."""
    figure = Figure(figsize=(2.6 * len(widths) + 0.6, 2.8), layout="constrained")
    grid = figure.subplots(1, len(widths), squeeze=False, sharey=True)[0]
    for axes, (level, counts) in zip(grid, widths.items(), strict=True):
        total = max(1, sum(counts.values()))
        axes.bar([str(width) for width in counts], [count / total for count in counts.values()], color=_BLUE)
        axes.set_title(f"{level}: {total} steps", fontsize=9)
        axes.set_xlabel("width bound chosen", fontsize=8)
    grid[0].set_ylabel("share of steps", fontsize=8)
    return png(figure)
