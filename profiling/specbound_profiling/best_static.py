"""The best fixed decision of a grid by replay: the bar that every adaptive policy has to clear. Knows no controller."""

from collections.abc import Sequence

import numpy as np

from specbound_controller.costs import CostTable
from specbound_controller.records import Decision
from specbound_profiling.outcomes import TraceBatch
from specbound_profiling.replay import ReplayResult, replay_static
from specbound_profiling.trace import PromptTrace


def static_seconds(
    traces: Sequence[PromptTrace] | TraceBatch, costs: CostTable, grid: Sequence[Decision], num_layers: int
) -> np.ndarray:
    """Modelled seconds of each decision over all traces; adds up over shards of a log. (A,)"""
    batch = traces if isinstance(traces, TraceBatch) else TraceBatch(traces)
    return np.array([replay_static(batch, decision, costs, num_layers).seconds.sum() for decision in grid])


def best_static(
    traces: Sequence[PromptTrace], costs: CostTable, grid: Sequence[Decision], num_layers: int
) -> tuple[Decision, ReplayResult]:
    """The decision with the most tokens per second over all traces (every decision emits the same tokens)."""
    batch = TraceBatch(traces)
    best = grid[int(np.argmin(static_seconds(batch, costs, grid, num_layers)))]
    return best, replay_static(batch, best, costs, num_layers)
