"""Fixed decisions by replay; the fastest is the bar that every adaptive policy has to clear. Knows no controller."""

from collections.abc import Sequence

import numpy as np

from specbound_controller.actions import LOOKUP_FIRST, THRESHOLDS, WIDTHS, Action, static_grid
from specbound_controller.costs import CostTable
from specbound_controller.policy import AnnealedConfidence
from specbound_controller.records import Decision
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.replay.grid import Grid, chunks
from specbound_profiling.replay.trace_batch import TraceBatch


def static_seconds(
    traces: Sequence[PromptTrace] | TraceBatch, costs: CostTable, grid: Sequence[Decision], num_layers: int
) -> np.ndarray:
    """Modelled seconds of each decision over all traces; adds up over shards of a log. (A,)"""
    return np.asarray(static_prompt_seconds(traces, costs, grid, num_layers).sum(axis=0))


def static_prompt_seconds(
    traces: Sequence[PromptTrace] | TraceBatch, costs: CostTable, grid: Sequence[Decision], num_layers: int
) -> np.ndarray:
    """Modelled seconds of each decision on each trace. (B, A)"""
    all_traces = traces.traces if isinstance(traces, TraceBatch) else traces
    parts = [Grid(TraceBatch(part), costs, num_layers, grid).prompt_seconds() for part in chunks(all_traces)]
    return np.concatenate(parts)


def best_static_action(
    traces: Sequence[PromptTrace],
    costs: CostTable,
    num_layers: int,
    alpha: float,
    widths: Sequence[int] = WIDTHS,
    thresholds: Sequence[float] = THRESHOLDS,
    lookup_first: Sequence[tuple[float, float]] = LOOKUP_FIRST,
) -> Action:
    """The fastest of the settings that a user could choose by hand: exits x widths x thresholds, and plain decoding.

    alpha: strength of annealing, for the settings with a threshold.
    """
    batch = TraceBatch(traces)
    grid = static_grid(batch.exit_layers, widths, thresholds, lookup_first)
    scores = {"annealed": AnnealedConfidence(alpha)}
    seconds = static_seconds(batch, costs, [action.decision(scores) for action in grid], num_layers)
    return grid[int(seconds.argmin())]
