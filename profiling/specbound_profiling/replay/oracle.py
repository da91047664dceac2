"""The best that any choice of exits and widths could do on recorded traces: clairvoyant, by dynamic programming.

`V(i) = min over actions of C(i) + V(i + N(i))` over the tokens generated so far. `oracle` issues no wrong draft, so
nothing in it is estimated; `oracle_grid` chooses from a grid of decisions, whose work after a wrong draft may be.
All prompts are solved at once, from their ends.
"""

# B prompts, N rows, E exit layers, A actions, W work counts, D tokens left

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from specbound_controller.costs import WORK_NAMES, CostTable
from specbound_controller.records import Decision
from specbound_controller.work import single_exit_work
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.replay.grid import Grid, chunks
from specbound_profiling.replay.replay import visited_rows
from specbound_profiling.replay.result import ReplayResult, Steps, concatenated, num_layer_calls
from specbound_profiling.replay.trace_batch import TraceBatch
from specbound_profiling.replay.tree_steps import tree_work

_TREE = -1
"""Stands for the exit layer of a draft tree."""
_HEAD_READS, _HEAD_ROWS = WORK_NAMES.index("head_reads"), WORK_NAMES.index("head_rows")


@dataclass(frozen=True, slots=True, eq=False)
class TreeRuns:
    """How far the true text stands among what sources without a layer propose (`tree_runs`)."""

    run: np.ndarray
    """True tokens in a row that are candidates, seen from a step that begins at each row. (N,) int64"""
    max_nodes: int
    """Most draft tokens of a tree."""


@dataclass(frozen=True, slots=True)
class _Actions:
    """Fixed drafts without a wrong token: (exit layer, width), width 0 first; trees have exit layer `_TREE`."""

    choices: tuple[tuple[int, int], ...]
    base_work: np.ndarray
    """(A, W) at context length 0"""
    context_work: np.ndarray
    """(A, W) to add per token of context"""


def accepted_run(batch: TraceBatch, w_max: int) -> np.ndarray:
    """Correct drafts in a row from each row on at each exit, within the trace, at most `w_max`. (N, E) int64"""
    rows = np.arange(batch.num_rows)[:, None]
    end = batch.last_row[:, None] + 1
    wrong = np.where(batch.is_accepted, batch.num_rows, rows)
    next_wrong = np.minimum.accumulate(wrong[::-1])[::-1]
    run: np.ndarray = np.minimum(np.minimum(next_wrong, end) - rows, w_max)
    return run


def fixed_draft_work(exit_layer: int, width: int, num_layers: int, context_length: int) -> np.ndarray:
    """Work of a step that drafts `width` tokens at one exit without testing (width 0: plain decoding). (W,)"""
    work = single_exit_work(exit_layer, num_layers, width, width, is_tested=False, context_length=context_length)
    work[[WORK_NAMES.index(name) for name in ("exit_tests", "decisions")]] = 0.0  # a controller's, not this step's
    return work


def _actions(exit_layers: tuple[int, ...], num_layers: int, w_max: int, max_nodes: int, costs: CostTable) -> _Actions:
    choices = ((0, 0), *((e, w) for e in exit_layers for w in range(1, w_max + 1)))
    base = np.array([fixed_draft_work(e, w, num_layers, 0) for e, w in choices])
    slope = np.array([fixed_draft_work(e, w, num_layers, 1) for e, w in choices]) - base
    if max_nodes == 0:
        return _Actions(choices, base, slope)
    sizes = _cheapest_sizes(max_nodes, num_layers, costs)
    trees = tree_work(sizes, np.zeros(max_nodes), num_layers)
    per_context = tree_work(sizes, np.ones(max_nodes), num_layers) - trees
    choices = (*choices, *((_TREE, w) for w in range(1, max_nodes + 1)))
    return _Actions(choices, np.concatenate((base, trees)), np.concatenate((slope, per_context)))


def _cheapest_sizes(max_nodes: int, num_layers: int, costs: CostTable) -> np.ndarray:
    """For every number of true nodes the size of the cheapest tree that holds so many: fitted prices may fall with more
    rows, and then wrong nodes make a step cheaper. (max_nodes,)"""
    sizes = np.arange(1, max_nodes + 1)
    seconds = costs.seconds(tree_work(sizes, np.zeros(max_nodes), num_layers))
    return np.array([first + int(seconds[first:].argmin()) + 1 for first in range(max_nodes)])


def oracle(
    traces: Sequence[PromptTrace] | TraceBatch,
    costs: CostTable,
    num_layers: int,
    w_max: int,
    exit_layers: Sequence[int] | None = None,
    trees: TreeRuns | None = None,
) -> ReplayResult:
    """Least modelled seconds over one exit layer and one width <= min(run of correct drafts, w_max) per step.

    Args:
        exit_layers: those of the recorded ones that may draft; None is all.
        trees: a step may also verify a draft tree of at most `max_nodes` nodes from sources that run no layer. Knowing
            the text, it holds the true path and nothing else.
    """
    batch = traces if isinstance(traces, TraceBatch) else TraceBatch(traces)
    exits = batch.exit_layers if exit_layers is None else tuple(exit_layers)
    max_nodes = 0 if trees is None else trees.max_nodes
    actions = _actions(exits, num_layers, w_max, max_nodes, costs)
    base, slope = costs.seconds(actions.base_work), costs.seconds(actions.context_work)
    widths = np.array([w for _, w in actions.choices])
    columns = [*batch.exit_layers, _TREE]
    exit_index = np.array([columns.index(e) if w else 0 for e, w in actions.choices])
    run = np.column_stack((accepted_run(batch, w_max), 0 * batch.position if trees is None else trees.run))
    choice = np.zeros(batch.num_rows, dtype=np.int64)
    value = np.zeros((len(batch.traces), _longest(batch) + 1))  # seconds for the last d tokens, by d
    for left, prompts, rows in _from_the_end(batch):
        # a draft that ends with the last token would save nothing: that token comes as the bonus of a shorter one
        is_possible = (widths == 0) | ((widths <= run[rows][:, exit_index]) & (widths < left))
        rest = value[prompts[:, None], np.maximum(left - widths - 1, 0)]
        seconds = base + slope * batch.context_length[rows, None] + rest
        seconds = np.where(is_possible, seconds, np.inf)
        choice[rows] = seconds.argmin(axis=1)
        value[prompts, left] = seconds[np.arange(len(rows)), choice[rows]]
    rows, prompts = visited_rows(batch, widths[choice] + 1)
    chosen = choice[rows]
    work = actions.base_work[chosen] + actions.context_work[chosen] * batch.context_length[rows, None]
    num_drafted = np.rint(work[:, _HEAD_ROWS] - work[:, _HEAD_READS]).astype(np.int64)
    is_tree = exit_index[chosen] == len(columns) - 1
    drafted = np.where(is_tree, num_drafted, widths[chosen])
    return Steps(prompts, drafted, widths[chosen], num_layer_calls(work), work).totals(batch.traces, costs)


def _longest(batch: TraceBatch) -> int:
    """Most tokens that steps emit in a trace."""
    return int((batch.end_row - batch.first_row).max()) - 1


def _from_the_end(batch: TraceBatch) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Tokens left to emit d = 1, 2, ...; the prompts that have so many, and the row at which their step begins."""
    num_tokens = batch.end_row - batch.first_row - 1
    for left in range(1, _longest(batch) + 1):
        prompts = np.flatnonzero(num_tokens >= left)
        yield left, prompts, batch.end_row[prompts] - left


def oracle_grid(
    traces: Sequence[PromptTrace] | TraceBatch, costs: CostTable, num_layers: int, grid: Sequence[Decision]
) -> ReplayResult:
    """Least modelled seconds where each step takes one decision of a grid (the settings of the controller's grid).

    Clairvoyant too; unlike `oracle` it may issue wrong drafts, and its scores see no features.
    """
    all_traces = traces.traces if isinstance(traces, TraceBatch) else traces
    return concatenated([_oracle_grid(TraceBatch(part), costs, num_layers, grid) for part in chunks(all_traces)])


def _oracle_grid(batch: TraceBatch, costs: CostTable, num_layers: int, decisions: Sequence[Decision]) -> ReplayResult:
    grid = Grid(batch, costs, num_layers, decisions)
    emitted, seconds = grid.outcomes()
    choice = np.zeros(batch.num_rows, dtype=np.int64)
    value = np.zeros((len(batch.traces), _longest(batch) + 1))
    for left, prompts, rows in _from_the_end(batch):
        totals = seconds[rows] + value[prompts[:, None], np.maximum(left - emitted[rows], 0)]
        choice[rows] = totals.argmin(axis=1)
        value[prompts, left] = totals[np.arange(len(rows)), choice[rows]]
    rows, prompts = visited_rows(batch, emitted[np.arange(batch.num_rows), choice])
    return grid.steps(rows, prompts, choice[rows]).totals(batch.traces, costs)
