"""Fixed decisions by replay; the fastest is the bar that every adaptive policy has to clear. Knows no controller."""

from collections.abc import Sequence

import numpy as np

from specbound_controller.costs import CostTable
from specbound_controller.records import Decision
from specbound_profiling.outcomes import TraceBatch
from specbound_profiling.replay import replay_static
from specbound_profiling.trace import PromptTrace


def static_seconds(
    traces: Sequence[PromptTrace] | TraceBatch, costs: CostTable, grid: Sequence[Decision], num_layers: int
) -> np.ndarray:
    """Modelled seconds of each decision over all traces; adds up over shards of a log. (A,)"""
    batch = traces if isinstance(traces, TraceBatch) else TraceBatch(traces)
    return np.array([replay_static(batch, decision, costs, num_layers).seconds.sum() for decision in grid])
