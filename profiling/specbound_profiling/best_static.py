"""The best fixed decision of a grid by replay: the bar that every adaptive policy has to clear. Knows no controller."""

from collections.abc import Sequence

import numpy as np

from specbound_controller.costs import CostTable
from specbound_controller.policy import AnnealedConfidence
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


def default_grid(
    exit_layers: Sequence[int],
    w_max: int = 8,
    thresholds: Sequence[float] = (0.0, 0.3, 0.5, 0.7, 0.9),
    alpha: float = 0.0,
) -> list[Decision]:
    """Plain decoding, and every exit alone with every width 1..`w_max` and threshold (0: a fixed draft)."""
    score = AnnealedConfidence(alpha)
    drafts = [
        Decision(w_max=width, thresholds={exit_layer: threshold}, score=score if threshold > 0 else None)
        for exit_layer in exit_layers
        for width in range(1, w_max + 1)
        for threshold in thresholds
    ]
    return [Decision(w_max=0), *drafts]
