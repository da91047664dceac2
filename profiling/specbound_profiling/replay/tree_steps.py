"""Replays one plan of a draft tree at every step: what a step did in a few numbers, without its record.

Best-first trees grow at all places at once; others one after another. Equal to `replay_stepwise` (a test compares the
two). Knows no policy.
"""

# R steps, W work counts

from collections.abc import Sequence

import numpy as np

from specbound_controller.costs import WORK_NAMES, CostTable, work_vector
from specbound_controller.trees.growth import Children
from specbound_controller.trees.plan import TreePlan
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.replay.result import ReplayResult, Steps
from specbound_profiling.replay.source_arrays import Texts
from specbound_profiling.replay.tree_batch import grows_at_once, outcomes
from specbound_profiling.replay.trees import TreeReplay, require_trees, right_path


class TreeMemo:
    """What is known of some traces, so that other plans need not find it again: their texts as arrays, and what
    sources proposed at places of trees that grow one at a time."""

    def __init__(self, traces: Sequence[PromptTrace], most: int = 100_000) -> None:
        """most: paths that are kept."""
        require_trees(traces)
        self.traces, self.texts = traces, Texts(traces)
        self._found: dict[tuple[int, int, tuple[str, ...]], dict[tuple[int, ...], Children]] = {}
        self._most, self._num = most, 0

    def at(self, trace: int, start: int, plan: TreePlan) -> dict[tuple[int, ...], Children]:
        """Of one place by the plan's sources; forgets all where too much is kept."""
        self._num += plan.max_nodes
        if self._num > self._most * 16:
            self._found, self._num = {}, 0
        return self._found.setdefault((trace, start, tuple(plan.rates)), {})


def replay_plan(
    traces: Sequence[PromptTrace], plan: TreePlan, costs: CostTable, num_layers: int, memo: TreeMemo | None = None
) -> ReplayResult:
    """`replay` of a tree policy that always plays one plan, of sources that run no layer.

    memo: of these traces, at these rates.
    """
    if not traces:
        return _result(traces, costs, num_layers, *np.zeros((4, 0), dtype=np.int64))
    if grows_at_once(plan):
        return _result(traces, costs, num_layers, *_steps_at_once(TreeMemo(traces) if memo is None else memo, plan))
    prompts, contexts, drafted, accepted = list[int](), list[int](), list[int](), list[int]()
    for index, trace in enumerate(traces):
        trees, start = TreeReplay(trace, num_layers), 1
        while start < trace.num_positions:
            known = None if memo is None else memo.at(index, start, plan)
            tree = trees.grow(plan, start, plan.max_depth, known)
            path, num_emitted = right_path(tree, trace, start)
            prompts.append(index)
            contexts.append(trace.prompt_length + start)
            drafted.append(tree.num_drafted)
            accepted.append(len(path))
            start += num_emitted
    return _result(traces, costs, num_layers, *map(np.array, (prompts, contexts, drafted, accepted)))


def _steps_at_once(memo: TreeMemo, plan: TreePlan) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of every step the prompt, the context, draft tokens and accepted ones, from the trees of all places. (R,) each"""
    lengths = memo.texts.num_positions
    first = np.cumsum(lengths) - lengths
    text = np.repeat(np.arange(len(lengths)), lengths)
    start = np.arange(len(text)) - first[text]
    begins = start >= 1
    drafted, accepted = np.zeros((2, len(text)), dtype=np.int64)
    drafted[begins], accepted[begins] = outcomes(memo.texts, plan, text[begins], start[begins])
    following = np.minimum(start + accepted + 1, lengths[text]).tolist()
    visited = list[int]()
    for begin, length in zip(first.tolist(), lengths.tolist(), strict=True):
        at = 1
        while at < length:
            visited.append(begin + at)
            at = following[begin + at]
    rows = np.array(visited, dtype=np.int64)
    return text[rows], memo.texts.prompt_lengths[text[rows]] + start[rows], drafted[rows], accepted[rows]


def _result(
    traces: Sequence[PromptTrace],
    costs: CostTable,
    num_layers: int,
    prompt: np.ndarray,
    context_length: np.ndarray,
    num_drafted: np.ndarray,
    num_accepted: np.ndarray,
) -> ReplayResult:
    """What steps of trees did, with totals. All arrays are of the R steps."""
    return Steps(
        prompt=prompt.astype(np.int64),
        num_drafted=num_drafted.astype(np.int64),
        num_accepted=num_accepted.astype(np.int64),
        num_layer_calls=np.full(len(prompt), num_layers),
        work=tree_work(num_drafted.astype(np.int64), context_length, num_layers),
        estimated_s=np.full(len(prompt), np.nan),
        estimate_error_s=np.full(len(prompt), np.nan),
    ).totals(traces, costs)


def tree_work(num_drafted: np.ndarray, context_length: np.ndarray, num_layers: int) -> np.ndarray:
    """Counts of work of steps that verify so many nodes and the root in one pass. (R,), (R,) -> (R, W)"""
    if not len(num_drafted):
        return np.zeros((0, len(WORK_NAMES)))
    rows = range(1, int(num_drafted.max()) + 2)
    base = np.array([work_vector({n: num_layers}, {n: 1}, 0, 0, num_decisions=0) for n in rows])
    slope = np.array([work_vector({n: num_layers}, {n: 1}, 0, 1, num_decisions=0) for n in rows]) - base
    work: np.ndarray = base[num_drafted] + slope[num_drafted] * context_length[:, None]
    return work


def tree_runs(traces: Sequence[PromptTrace], plan: TreePlan, num_layers: int) -> np.ndarray:
    """True tokens in a row that the plan's sources propose, for a step that begins at each row; 0 at first rows. (N,)

    Sources know what they would know at the step's beginning, having seen every step before it.
    """
    runs = list[int]()
    for trace in traces:
        trees = TreeReplay(trace, num_layers)
        runs += [0, *(trees.true_run(plan, start, plan.max_nodes) for start in range(1, trace.num_positions))]
    return np.array(runs, dtype=np.int64)
