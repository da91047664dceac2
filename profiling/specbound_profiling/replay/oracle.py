"""The best that any choice of exits and widths could do on recorded traces: clairvoyant, by dynamic programming.

`V(i) = min over steps of C(i) + V(i + N(i))` over the tokens generated so far. `oracle` issues no wrong draft, so
nothing in it is estimated, and mixes sources within a step, so that no policy of chains can pass it (`chain_steps` says
why); `oracle_grid` chooses from a grid of decisions, whose work after a wrong draft may be estimated.
All prompts are solved at once, from their ends.
"""

# B prompts, N rows, E exit layers, W work counts, D tokens left, T tree sizes

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from specbound_controller.costs import WORK_NAMES, CostTable
from specbound_controller.records import Decision
from specbound_controller.work import single_exit_work
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.replay.chain_steps import chain_steps
from specbound_profiling.replay.grid import Grid, chunks
from specbound_profiling.replay.replay import visited_rows
from specbound_profiling.replay.result import ReplayResult, Steps, concatenated, num_layer_calls
from specbound_profiling.replay.trace_batch import TraceBatch
from specbound_profiling.replay.tree_steps import tree_work

_HEAD_READS, _HEAD_ROWS = WORK_NAMES.index("head_reads"), WORK_NAMES.index("head_rows")


@dataclass(frozen=True, slots=True, eq=False)
class TreeRuns:
    """How far the true text stands among what sources without a layer propose (`tree_runs`)."""

    run: np.ndarray
    """True tokens in a row that are candidates, seen from a step that begins at each row. (N,) int64"""
    max_nodes: int
    """Most draft tokens of a tree."""

    def split(self, num_rows: Sequence[int]) -> "list[TreeRuns]":
        """Of parts of the rows, in order."""
        parts = np.split(self.run, np.cumsum(num_rows)[:-1])
        return [TreeRuns(part, self.max_nodes) for part in parts]


def accepted_run(batch: TraceBatch, w_max: int) -> np.ndarray:
    """Correct drafts in a row from each row on at each exit, within the trace, at most `w_max`. (N, E) int64"""
    rows, said = np.arange(batch.num_rows), batch.said
    num_early = said.num_drafts - 1
    end = batch.last_row[:, None] + 1
    last = said.is_accepted[said.rows(rows, num_early)]  # as a draft of the last index that is known, and later ones
    next_wrong = np.minimum.accumulate(np.where(last, batch.num_rows, rows[:, None])[::-1])[::-1]
    after = np.minimum(rows + num_early, batch.num_rows - 1)
    run = np.where((rows + num_early)[:, None] < end, np.minimum(next_wrong[after], end) - rows[:, None], num_early)
    for draft_index in reversed(range(num_early)):
        at = np.minimum(rows + draft_index, batch.last_row)
        is_right = said.is_accepted[said.rows(at, draft_index)] & ((rows + draft_index)[:, None] < end)
        run = np.where(is_right, run, draft_index)
    found: np.ndarray = np.minimum(run, w_max)
    return found


def fixed_draft_work(exit_layer: int, width: int, num_layers: int, context_length: int) -> np.ndarray:
    """Work of a step that drafts `width` tokens at one exit without testing (width 0: plain decoding). (W,)"""
    work = single_exit_work(exit_layer, num_layers, width, width, is_tested=False, context_length=context_length)
    work[[WORK_NAMES.index(name) for name in ("exit_tests", "decisions")]] = 0.0  # a controller's, not this step's
    return work


def oracle(
    traces: Sequence[PromptTrace] | TraceBatch,
    costs: CostTable,
    num_layers: int,
    w_max: int,
    exit_layers: Sequence[int] | None = None,
    trees: TreeRuns | None = None,
) -> ReplayResult:
    """Least modelled seconds over steps of at most `w_max` right drafts, each from the shallowest source that is right.

    No policy whose drafts are chains of at most `w_max` tokens from these exits can be faster on the same traces.

    Args:
        exit_layers: those of the recorded ones that may draft; None is all.
        trees: a step may also verify a draft tree of at most `max_nodes` nodes from sources that run no layer. Knowing
            the text, it holds the true path and nothing else.
    """
    parts = list(chunks(traces.traces if isinstance(traces, TraceBatch) else traces))
    exits = None if exit_layers is None else tuple(exit_layers)
    num_rows = [sum(trace.num_positions for trace in part) for part in parts]
    of_parts = [None] * len(parts) if trees is None else trees.split(num_rows)
    found = [_oracle(TraceBatch(p), costs, num_layers, w_max, exits, t) for p, t in zip(parts, of_parts, strict=True)]
    return concatenated(found)


def _oracle(
    batch: TraceBatch,
    costs: CostTable,
    num_layers: int,
    w_max: int,
    exit_layers: tuple[int, ...] | None,
    trees: TreeRuns | None,
) -> ReplayResult:
    chains = chain_steps(batch, costs, num_layers, w_max, batch.exit_layers if exit_layers is None else exit_layers)
    widths, runs = np.arange(w_max + 1), np.tile(chains.run[:, None], w_max + 1)
    work, of_steps = chains.work, chains.seconds
    if trees is not None:
        tree_widths = np.arange(1, trees.max_nodes + 1)
        widths = np.concatenate((widths, tree_widths))
        runs = np.column_stack((runs, np.tile(trees.run[:, None], trees.max_nodes)))
        of_trees = _tree_work(batch, costs, num_layers, trees.max_nodes)
        work = np.concatenate((work, of_trees), axis=1)
        of_steps = np.concatenate((of_steps, costs.seconds(of_trees)), axis=1)
    choice = np.zeros(batch.num_rows, dtype=np.int64)
    value = np.zeros((len(batch.traces), _longest(batch) + 1))  # seconds for the last d tokens, by d
    for left, prompts, rows in _from_the_end(batch):
        # a draft that ends with the last token would save nothing: that token comes as the bonus of a shorter one
        is_possible = (widths == 0) | ((widths <= runs[rows]) & (widths < left))
        rest = value[prompts[:, None], np.maximum(left - widths - 1, 0)]
        seconds = np.where(is_possible, of_steps[rows] + rest, np.inf)
        choice[rows] = seconds.argmin(axis=1)
        value[prompts, left] = seconds[np.arange(len(rows)), choice[rows]]
    rows, prompts = visited_rows(batch, widths[choice] + 1)
    chosen = choice[rows]
    done, num_right = work[rows, chosen], widths[chosen]
    in_tree = np.rint(done[:, _HEAD_ROWS] - done[:, _HEAD_READS]).astype(np.int64)
    drafted = np.where(chosen > w_max, in_tree, num_right)
    totals = Steps(prompts, drafted, num_right, num_layer_calls(done), done).totals(batch.traces, costs)
    seconds = np.bincount(prompts, of_steps[rows, chosen], minlength=len(batch.traces))
    return replace(totals, seconds=seconds)


def _tree_work(batch: TraceBatch, costs: CostTable, num_layers: int, max_nodes: int) -> np.ndarray:
    """Work of a step from every row whose tree holds 1, 2, ... true nodes. (N, T, W)

    Fitted prices may fall with more rows, and then wrong nodes make a step cheaper: each size is the cheapest that
    holds so many.
    """
    sizes = np.arange(1, max_nodes + 1)
    seconds = costs.seconds(tree_work(sizes, np.zeros(max_nodes), num_layers))
    cheapest = np.array([first + int(seconds[first:].argmin()) + 1 for first in range(max_nodes)])
    base = tree_work(cheapest, np.zeros(max_nodes), num_layers)
    per_context = tree_work(cheapest, np.ones(max_nodes), num_layers) - base
    work: np.ndarray = base + per_context * batch.context_length[:, None, None]
    return work


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
