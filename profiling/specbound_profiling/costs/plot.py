"""Residuals of a cost table as a PNG: predicted against measured seconds of steps that it was fitted without."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from specbound_controller.costs import ROW_KNOTS
from specbound_profiling.costs.measure import CostMeasurement


def plot_residuals(measurements: Mapping[str, CostMeasurement], path: Path) -> None:
    """One row for each compression level: predicted against measured, and the relative residual by step seconds."""
    figure = Figure(figsize=(9.0, 3.6 * len(measurements)), layout="constrained")
    grid = figure.subplots(len(measurements), 2, squeeze=False)
    for (level, measured), (left, right) in zip(measurements.items(), grid, strict=True):
        live, predicted = measured.seconds * 1e3, measured.predicted * 1e3
        widest = (measured.work[:, : len(ROW_KNOTS)] > 0) @ np.ones(len(ROW_KNOTS))  # knots that a step touches
        for axes, values in ((left, live), (right, 100.0 * (live / predicted - 1.0))):
            for is_draft, label, colour in ((False, "nothing drafted", "#2f6f9f"), (True, "drafts", "#c1440e")):
                chosen = (widest > 1) == is_draft
                axes.plot(predicted[chosen], values[chosen], ".", color=colour, alpha=0.5, label=label)
            axes.set_xlabel("predicted by a table fitted without the step, ms")
        limits = (0.0, float(max(live.max(), predicted.max())) * 1.05)
        left.plot(limits, limits, color="#888888", linewidth=0.8)
        left.set(ylabel="measured, ms", title=f"{level}: median error {measured.table.held_out_error:.1%}")
        left.legend(frameon=False)
        right.axhline(0.0, color="#888888", linewidth=0.8)
        right.set(ylabel="measured less predicted, %", ylim=(-40, 40), title=f"{len(live)} steps")
    figure.savefig(path, dpi=110, format="png")
