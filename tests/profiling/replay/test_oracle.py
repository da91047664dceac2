"""The oracle against brute force over every sequence of actions."""

from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import product

import numpy as np
import pytest

from specbound_controller.actions import static_grid
from specbound_controller.costs import WORK_NAMES, CostTable, with_all_calls, work_vector
from specbound_controller.policy import AnnealedConfidence, StaticPolicy
from specbound_controller.records import Decision
from specbound_controller.work import record_work
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.replay.best_static import static_seconds
from specbound_profiling.replay.chain_steps import limit_prices
from specbound_profiling.replay.oracle import accepted_run, fixed_draft_work, oracle, oracle_grid
from specbound_profiling.replay.random_policy import RandomChoice
from specbound_profiling.replay.replay import PLAIN, replay, replay_static
from specbound_profiling.replay.simulate import simulate
from specbound_profiling.replay.trace_batch import TraceBatch
from tests.profiling.conftest import with_later

TraceOf = Callable[..., PromptTrace]
EXITS, NUM_LAYERS, W_MAX = (1, 3), 5, 3


def cheapest(trace: PromptTrace, decisions: list[Decision], costs: CostTable, only_correct: bool) -> float:
    """Least seconds over all sequences of decisions, by plain recursion on simulated steps."""

    @cache
    def value(start: int) -> float:
        if start >= trace.num_positions:
            return 0.0
        best = np.inf
        for decision in decisions:
            record = simulate(trace, start, decision, None, NUM_LAYERS).record
            if only_correct and record.num_accepted < record.num_drafted:
                continue
            best = min(
                best, float(costs.seconds(record_work(record, is_adaptive=False))) + value(start + record.num_emitted)
            )
        return best

    return value(1)


def cheapest_mixture(trace: PromptTrace, costs: CostTable) -> float:
    """Least seconds over all sequences of steps, and in each over every choice of a right exit for every token."""

    def step_s(exits: tuple[int, ...], context_length: int) -> float:
        """One step, call by call: pending tokens that stand shallower come along, as in the decoder."""
        depths, calls = [0], Counter[int]()

        def advance(depth: int) -> None:
            for layer in range(depth):
                rows = sum(d <= layer for d in depths)
                calls[rows] += rows > 0
            depths[:] = [max(d, depth) for d in depths]

        for exit_layer in exits:
            advance(exit_layer)
            depths.append(0)
        advance(NUM_LAYERS)
        reads = Counter({1: sum(e > 0 for e in exits)}) + Counter({len(exits) + 1: 1})
        return float(costs.seconds(work_vector(calls, reads, 0, context_length, num_decisions=0)))

    @cache
    def value(start: int) -> float:
        if start >= trace.num_positions:
            return 0.0
        context_length, best = trace.prompt_length + start, np.inf
        for width in range(min(W_MAX, trace.num_positions - start - 1) + 1):
            accepted = [trace.said(j).is_accepted[start + j] for j in range(width)]
            right = [[e for e, is_right in zip(trace.exit_layers, each, strict=True) if is_right] for each in accepted]
            for exits in product(*right):
                best = min(best, step_s(exits, context_length) + value(start + width + 1))
        return best

    return value(1)


@pytest.mark.parametrize("seed", range(25))
def test_no_policy_passes_the_limit(seed: int, random_trace_of: TraceOf, with_branches_of: TraceOf) -> None:
    """Random prices, decreasing ones among them, and random decisions at every step, wrong drafts included."""
    rng = np.random.default_rng(seed)
    exits = (0, 1, 3)
    traces = [with_branches_of(rng, random_trace_of(rng, exits, f"p{i}"), 4, 0.7) for i in range(4)]
    traces = [with_later(rng, trace, seed % 3) for trace in traces]
    table = CostTable(dict(zip(WORK_NAMES, rng.random(len(WORK_NAMES)), strict=True)), "none", "here", 0.0, 30)
    limit = oracle(traces, table, NUM_LAYERS, W_MAX).seconds
    for _ in range(6):
        decisions = [
            StaticPolicy(
                chosen, [rng.choice((0.05, 0.4)) for _ in chosen], int(rng.integers(1, W_MAX + 1)), combine="token"
            ).decide(None)
            for chosen in ((0,), (1,), (3,), (0, 1), (0, 3), (1, 3), (0, 1, 3))
        ]
        policy = RandomChoice([PLAIN, *decisions], int(rng.integers(1000)))
        replayed = replay(traces, policy, table, NUM_LAYERS, "none").seconds
        assert (replayed >= limit * (1 - 1e-9)).all()
    grid = [PLAIN, *decisions]
    assert (oracle_grid(traces, table, NUM_LAYERS, grid).seconds >= limit * (1 - 1e-9)).all()


def test_limit_prices_are_the_largest_subadditive_ones_below_the_table() -> None:
    calls = {1: 2.0, 2: 5.0, 4: 3.0, 8: 9.0, 16: 9.0, 32: 9.0, 64: 9.0}
    seconds = with_all_calls({f"layer_calls_rows_{rows}": price for rows, price in calls.items()})
    table = CostTable({**dict.fromkeys(WORK_NAMES, 0.0), **seconds}, "none", "here", 0.0, 30)
    # two rows cost no more than four; three no more than four; eight no more than twice four
    assert limit_prices(table, 8)[[0, 1, 2, 3, 4, 8]].tolist() == [0.0, 2.0, 3.0, 3.0, 3.0, 6.0]


@pytest.mark.parametrize("seed", range(25))
def test_oracle_equals_brute_force(seed: int, random_trace_of: TraceOf, costs: CostTable) -> None:
    rng = np.random.default_rng(seed)
    traces = [with_later(rng, random_trace_of(rng, EXITS, f"p{i}"), seed % 3) for i in range(3)]
    result = oracle(traces, costs, NUM_LAYERS, W_MAX)
    np.testing.assert_allclose(result.seconds, [cheapest_mixture(trace, costs) for trace in traces])
    np.testing.assert_allclose(costs.seconds(result.work), result.seconds)  # these prices are as a limit's must be
    assert result.num_drafted.tolist() == result.num_accepted.tolist()
    assert (result.num_steps + result.num_accepted).tolist() == result.num_tokens.tolist()


@pytest.mark.parametrize("seed", range(10))
def test_grid_oracle_equals_brute_force(seed: int, random_trace_of: TraceOf, costs: CostTable) -> None:
    rng = np.random.default_rng(seed)
    traces = [with_later(rng, random_trace_of(rng, EXITS, f"p{i}"), seed % 3) for i in range(2)]
    score = AnnealedConfidence(0.5)
    grid = [
        PLAIN,
        *(Decision(2, {e: t}, score) for e in EXITS for t in (0.0, 0.3, 0.6)),
        Decision(3, {1: 0.5, 3: 0.1}, score),
    ]
    result = oracle_grid(traces, costs, NUM_LAYERS, grid)
    expected = [cheapest(trace, grid, costs, only_correct=False) for trace in traces]
    np.testing.assert_allclose(result.seconds, expected)


@pytest.mark.parametrize("seed", range(6))
def test_grid_oracle_of_a_controllers_grid_equals_brute_force(
    seed: int, random_trace_of: TraceOf, with_branches_of: TraceOf, costs: CostTable
) -> None:
    rng = np.random.default_rng(seed)
    traces = [with_branches_of(rng, random_trace_of(rng, EXITS, f"p{i}"), 4, 0.7) for i in range(2)]
    traces = [with_later(rng, trace, seed % 3) for trace in traces]
    grid = [a.decision({"annealed": AnnealedConfidence(0.5)}) for a in static_grid(EXITS, (1, 2, 4), (0.4,))]
    result = oracle_grid(traces, costs, NUM_LAYERS, grid)
    np.testing.assert_allclose(result.seconds, [cheapest(trace, grid, costs, only_correct=False) for trace in traces])
    np.testing.assert_allclose(costs.seconds(result.work), result.seconds)


def test_oracle_is_never_slower_than_the_best_fixed_draft(random_trace_of: TraceOf, costs: CostTable) -> None:
    rng = np.random.default_rng(3)
    traces = [random_trace_of(rng, EXITS, f"p{i}") for i in range(8)]
    grid = [a.decision({"annealed": AnnealedConfidence(0.0)}) for a in static_grid(EXITS, (1, 2, 3), (0.5,))]
    assert oracle_grid(traces, costs, NUM_LAYERS, grid).seconds.sum() <= static_seconds(traces, costs, grid, 5).min()
    assert (
        oracle(traces, costs, NUM_LAYERS, W_MAX).seconds.sum() <= replay_static(traces, PLAIN, costs, 5).seconds.sum()
    )


@pytest.mark.parametrize(("exit_layer", "width"), [(0, 0), (1, 1), (3, 4), (2, 9)])
def test_work_of_a_fixed_draft_is_that_of_its_calls_alone(exit_layer: int, width: int) -> None:
    layer_calls = {1: (width + 1) * exit_layer, width + 1: NUM_LAYERS - exit_layer}
    expected = work_vector(layer_calls, {1: width, width + 1: 1}, 0, 70, num_decisions=0)
    assert fixed_draft_work(exit_layer, width, NUM_LAYERS, 70).tolist() == expected.tolist()


def test_runs_of_correct_drafts_are_counted_from_each_position(trace_of: TraceOf) -> None:
    trace = trace_of([[1, 1], [0, 1], [1, 1], [1, 1], [1, 0]], (1, 3))
    assert accepted_run(TraceBatch([trace]), 3).T.tolist() == [[1, 0, 3, 2, 1], [3, 3, 2, 1, 0]]
    assert accepted_run(TraceBatch([trace]), 2).T.tolist() == [[1, 0, 2, 2, 1], [2, 2, 2, 1, 0]]


@pytest.mark.parametrize("num_later", [0, 1, 3])
def test_runs_of_correct_drafts_follow_what_is_said_of_each_draft(random_trace_of: TraceOf, num_later: int) -> None:
    rng = np.random.default_rng(num_later)
    traces = [with_later(rng, random_trace_of(rng, EXITS, f"p{i}"), num_later) for i in range(6)]
    expected = []
    for trace in traces:
        for start, exit_index in product(range(trace.num_positions), range(len(EXITS))):
            run = 0
            while start + run < trace.num_positions and trace.said(run).is_accepted[start + run, exit_index]:
                run += 1
            expected.append(min(run, 5))
    assert accepted_run(TraceBatch(traces), 5).ravel().tolist() == expected


def test_perfect_exit_is_used_at_full_width(trace_of: TraceOf, costs: CostTable) -> None:
    result = oracle([trace_of([[1]] * 9, (1,))], costs, 20, 3)
    assert result.num_steps[0] == 2 and result.num_drafted[0] == 6
    assert result.num_layer_calls[0] == 2 * (4 * 1 + 19)
