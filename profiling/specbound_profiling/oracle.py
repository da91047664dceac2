"""The best that any choice of exits and widths could do on recorded traces: clairvoyant, by dynamic programming.

`V(i) = min over actions of C(i) + V(i + N(i))` over the tokens generated so far. `oracle` issues no wrong draft, so
nothing in it is estimated; `oracle_grid` chooses from a grid of decisions, whose work after a wrong draft is.
"""

# P positions, E exit layers, J widths, A actions

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from specbound_controller.costs import ROW_BUCKETS, WORK_NAMES, CostTable
from specbound_controller.records import Decision
from specbound_controller.work import single_exit_work
from specbound_profiling.outcomes import TraceBatch, step_outcomes
from specbound_profiling.replay import ReplayResult
from specbound_profiling.trace import PromptTrace


@dataclass(frozen=True, slots=True)
class _Actions:
    """Fixed drafts without a wrong token: (exit layer, width), width 0 first."""

    choices: tuple[tuple[int, int], ...]
    base_work: np.ndarray
    """(A, W) at context length 0"""
    context_work: np.ndarray
    """(A, W) to add per token of context"""


def accepted_run(trace: PromptTrace, w_max: int) -> np.ndarray:
    """Correct drafts in a row from each position at each exit, at most `w_max`. (P, E) int64"""
    run = np.zeros((trace.num_positions + 1, len(trace.exit_layers)), dtype=np.int64)
    for position in reversed(range(trace.num_positions)):
        run[position] = np.where(trace.is_accepted[position], np.minimum(run[position + 1] + 1, w_max), 0)
    return run[:-1]


def fixed_draft_work(exit_layer: int, width: int, num_layers: int, context_length: int) -> np.ndarray:
    """Work of a step that drafts `width` tokens at one exit without testing (width 0: plain decoding). (W,)"""
    work = single_exit_work(exit_layer, num_layers, width, width, is_tested=False, context_length=context_length)
    work[[WORK_NAMES.index(name) for name in ("exit_tests", "decisions")]] = 0.0  # a controller's, not this step's
    return work


def _actions(exit_layers: tuple[int, ...], num_layers: int, w_max: int) -> _Actions:
    choices = ((0, 0), *((e, w) for e in exit_layers for w in range(1, w_max + 1)))
    base = np.array([fixed_draft_work(e, w, num_layers, 0) for e, w in choices])
    slope = np.array([fixed_draft_work(e, w, num_layers, 1) for e, w in choices]) - base
    return _Actions(choices, base, slope)


def oracle(traces: Sequence[PromptTrace], costs: CostTable, num_layers: int, w_max: int) -> ReplayResult:
    """Least modelled seconds over one exit layer and one width <= min(run of correct drafts, w_max) per step."""
    actions = _actions(traces[0].exit_layers, num_layers, w_max)
    base, slope = costs.seconds(actions.base_work), costs.seconds(actions.context_work)
    widths = np.array([w for _, w in actions.choices])
    exit_index = np.array([traces[0].exit_layers.index(e) if w else 0 for e, w in actions.choices])
    rows = []
    for trace in traces:
        run, length = accepted_run(trace, w_max), trace.num_positions
        value, choice = np.zeros(length + 1), np.zeros(length + 1, dtype=np.int64)
        for start in range(length - 1, 0, -1):
            # a draft that ends with the last token would save nothing: that token comes as the bonus of a shorter one
            is_possible = (widths == 0) | ((widths <= run[start, exit_index]) & (widths <= length - start - 1))
            end = np.minimum(start + widths + 1, length)
            seconds = base + slope * (trace.prompt_length + start) + value[end]
            choice[start] = int(np.argmin(np.where(is_possible, seconds, np.inf)))
            value[start] = seconds[choice[start]]
        rows.append(_follow(trace, actions, choice))
    return _result(traces, rows, costs)


def _follow(trace: PromptTrace, actions: _Actions, choice: np.ndarray) -> tuple[int, int, int, np.ndarray]:
    """Steps, drafted (all accepted), layer calls and work of the chosen path."""
    num_steps, num_drafted, work, start = 0, 0, np.zeros(len(WORK_NAMES)), 1
    while start < trace.num_positions:
        action, context = int(choice[start]), trace.prompt_length + start
        width = actions.choices[action][1]
        work += actions.base_work[action] + actions.context_work[action] * context
        num_steps, num_drafted, start = num_steps + 1, num_drafted + width, start + width + 1
    return num_steps, num_drafted, _num_layer_calls(work), work


def _num_layer_calls(work: np.ndarray) -> int:
    return round(float(work[: len(ROW_BUCKETS)].sum()))


def _result(
    traces: Sequence[PromptTrace], rows: list[tuple[int, int, int, np.ndarray]], costs: CostTable
) -> ReplayResult:
    num_drafted = np.array([row[1] for row in rows])
    work = np.array([row[3] for row in rows])
    return ReplayResult(
        prompt_ids=tuple(t.prompt_id for t in traces),
        tasks=tuple(t.task for t in traces),
        num_tokens=np.array([t.num_positions - 1 for t in traces]),
        num_steps=np.array([row[0] for row in rows]),
        num_drafted=num_drafted,
        num_accepted=num_drafted,
        num_layer_calls=np.array([row[2] for row in rows]),
        work=work,
        seconds=costs.seconds(work),
    )


def oracle_grid(
    traces: Sequence[PromptTrace] | TraceBatch, costs: CostTable, num_layers: int, grid: Sequence[Decision]
) -> ReplayResult:
    """Least modelled seconds where each step takes one decision of a grid (the controller's action grid).

    Clairvoyant too; unlike `oracle` it may issue wrong drafts, and its scores see no features.
    """
    batch = traces if isinstance(traces, TraceBatch) else TraceBatch(traces)
    outcomes = [step_outcomes(batch, decision, num_layers) for decision in grid]
    emitted = np.array([o.num_emitted for o in outcomes])
    seconds = np.array([costs.seconds(o.work) for o in outcomes])
    action = np.zeros(batch.num_rows, dtype=np.int64)
    for first, end in zip(batch.first_row, batch.end_row, strict=True):
        value = np.zeros(end - first + 1)
        for row in range(end - 1, first, -1):
            totals = seconds[:, row] + value[np.minimum(row + emitted[:, row], end) - first]
            action[row] = int(np.argmin(totals))
            value[row - first] = totals[action[row]]
    counts = np.zeros((len(batch.traces), 4), dtype=np.int64)
    work = np.zeros((len(batch.traces), len(WORK_NAMES)))
    for i, (first, end) in enumerate(zip(batch.first_row, batch.end_row, strict=True)):
        row = first + 1
        while row < end:
            chosen = outcomes[action[row]]
            counts[i] += (1, chosen.num_drafted[row], chosen.num_accepted[row], chosen.num_layer_calls[row])
            work[i] += chosen.work[row]
            row += chosen.num_emitted[row]
    num_steps, num_drafted, num_accepted, num_layer_calls = counts.T
    return ReplayResult(
        prompt_ids=tuple(t.prompt_id for t in batch.traces),
        tasks=tuple(t.task for t in batch.traces),
        num_tokens=batch.end_row - batch.first_row - 1,
        num_steps=num_steps,
        num_drafted=num_drafted,
        num_accepted=num_accepted,
        num_layer_calls=num_layer_calls,
        work=work,
        seconds=costs.seconds(work),
    )
