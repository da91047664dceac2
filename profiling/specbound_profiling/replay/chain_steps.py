"""The cheapest step that drafts so many right tokens from a position on, whatever sources draft them.

Each draft token comes from the shallowest source that is right. With prices of layer calls that grow with the rows, and
of which two calls never cost less than one on the rows of both, no other choice is cheaper: deeper drafts split the
rows of more layers over more calls. Measured prices may break that by noise, so a limit takes the largest prices below
them that do not (`limit_prices`).
"""

# N rows, D drafts of a step that differ, W draft widths, E exit layers, S stretches of layers between exits,
# K row knots

import itertools
from dataclasses import dataclass

import numpy as np

from specbound_controller.costs import ROW_KNOTS, WORK_NAMES, CostTable, work_vector
from specbound_controller.lookup import LOOKUP_EXIT
from specbound_profiling.replay.trace_batch import TraceBatch

NOBODY = -1
"""In place of an exit layer where no source is right."""


def limit_prices(costs: CostTable, most_rows: int) -> np.ndarray:
    """Seconds of a layer call by rows, context left out: the largest that are nowhere above the table's, grow with the
    rows, and are subadditive. (most_rows + 1,)"""
    alone = np.array([work_vector({rows: 1}, {}, 0, 0, num_decisions=0) for rows in range(most_rows + 1)])
    alone[:, WORK_NAMES.index("steps")] = 0.0
    prices: np.ndarray = costs.seconds(alone)
    prices[0] = 0.0
    for rows in range(2, most_rows + 1):
        split = prices[1 : rows // 2 + 1] + prices[rows - 1 : rows - rows // 2 - 1 : -1]
        prices[rows] = min(prices[rows], split.min())
    grown: np.ndarray = np.minimum.accumulate(prices[::-1])[::-1]
    grown[0] = 0.0
    return grown


def shallowest_right(batch: TraceBatch, exit_layers: tuple[int, ...]) -> np.ndarray:
    """The shallowest of some exit layers whose draft is right at each row of `said`, `NOBODY` where none is.
    (D * N,) int64"""
    is_accepted = batch.said.is_accepted
    found = np.full(len(is_accepted), NOBODY)
    for layer in sorted(exit_layers, reverse=True):
        found[is_accepted[:, batch.exit_layers.index(layer)]] = layer
    return found


@dataclass(frozen=True, slots=True)
class ChainSteps:
    """Steps from every row on, of every width."""

    run: np.ndarray
    """Longest draft without a wrong token, at most W - 1. (N,) int64"""
    work: np.ndarray
    """(N, W, len(WORK_NAMES)) float64; what stands beyond `run` means nothing"""
    seconds: np.ndarray
    """At limit prices. (N, W)"""


def chain_steps(
    batch: TraceBatch, costs: CostTable, num_layers: int, w_max: int, exit_layers: tuple[int, ...]
) -> ChainSteps:
    """All steps that draft right tokens only, each from the shallowest source that is right."""
    source = shallowest_right(batch, exit_layers)
    rows, last = np.arange(batch.num_rows), batch.last_row
    depths = [0, *sorted({layer for layer in exit_layers if layer != LOOKUP_EXIT}), num_layers]
    stretches = list(itertools.pairwise(depths))
    prices = limit_prices(costs, w_max + 1)
    calls = np.array([work_vector({n: 1}, {}, 0, 0) for n in range(w_max + 2)])[:, : len(ROW_KNOTS)]
    place = {name: WORK_NAMES.index(name) for name in ("layer_rows_times_context", "head_reads", "head_rows", "steps")}
    waiting = np.ones((batch.num_rows, len(stretches)), dtype=np.int64)
    """Tokens that have not run a stretch yet"""
    spent = np.zeros((batch.num_rows, len(ROW_KNOTS)))
    spent_s = np.zeros(batch.num_rows)
    num_reads = np.zeros(batch.num_rows)
    work = np.zeros((batch.num_rows, w_max + 1, len(WORK_NAMES)))
    seconds = np.zeros((batch.num_rows, w_max + 1))
    run = np.zeros(batch.num_rows, dtype=np.int64)
    is_going = np.ones(batch.num_rows, dtype=bool)
    coefficient = costs.coefficients
    for width in range(w_max + 1):
        if width:
            at = batch.said.rows(np.minimum(rows + width - 1, batch.num_rows - 1), width - 1)
            is_going &= (rows + width - 1 <= last) & (source[at] != NOBODY)
            run += is_going
            drafting = np.where(is_going, source[at], 0)
            for index, (low, high) in enumerate(stretches):
                crosses = drafting >= high
                spent += np.where(crosses, high - low, 0)[:, None] * calls[waiting[:, index]]
                spent_s += np.where(crosses, high - low, 0) * prices[waiting[:, index]]
                waiting[crosses, index] = 0
            num_reads += drafting > 0
            waiting += 1
        ends, ends_s = spent.copy(), spent_s.copy()
        for index, (low, high) in enumerate(stretches):
            ends += (high - low) * calls[waiting[:, index]]
            ends_s += (high - low) * prices[waiting[:, index]]
        work[:, width, : len(ROW_KNOTS)] = ends
        work[:, width, place["layer_rows_times_context"]] = (width + 1) * num_layers * batch.context_length / 1000.0
        work[:, width, place["head_reads"]] = num_reads + 1
        work[:, width, place["head_rows"]] = num_reads + width + 1
        work[:, width, place["steps"]] = 1.0
        others = work[:, width, len(ROW_KNOTS) :] @ [coefficient[name] for name in WORK_NAMES[len(ROW_KNOTS) :]]
        seconds[:, width] = ends_s + others
    return ChainSteps(run, work, seconds)
