"""Vectorised replay against step-by-step replay, and both against hand counts."""

from collections.abc import Callable

import numpy as np
import pytest

from specbound_controller.actions import static_grid
from specbound_controller.costs import CostTable
from specbound_controller.features import FEATURE_NAMES
from specbound_controller.policy import AnnealedConfidence, StaticPolicy
from specbound_controller.records import Decision, StepRecord
from specbound_controller.work import record_work
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.replay.best_static import static_seconds
from specbound_profiling.replay.outcomes import step_outcomes
from specbound_profiling.replay.replay import PLAIN, replay, replay_static
from specbound_profiling.replay.simulate import simulate
from specbound_profiling.replay.trace_batch import TraceBatch
from tests.profiling.conftest import with_later

TraceOf = Callable[..., PromptTrace]
EXITS = (1, 3, 4)


class Fixed:
    """The same decision always, as a policy."""

    needs_features = False
    needs_full_signals = False

    def __init__(self, decision: Decision) -> None:
        self.decision = decision

    def reset(self) -> None: ...

    def decide(self, features: np.ndarray | None) -> Decision:
        return self.decision

    def observe(self, record: StepRecord) -> None: ...


def random_decision(rng: np.random.Generator) -> Decision:
    chosen = sorted(rng.choice(EXITS, size=int(rng.integers(0, 4)), replace=False).tolist())
    thresholds = {e: float(rng.choice([0.0, 0.2, 0.5, 0.8, np.inf])) for e in chosen}
    return Decision(
        w_max=int(rng.integers(0, 7)),
        thresholds=thresholds,
        score=AnnealedConfidence(float(rng.choice([0.0, 0.37, 1.0]))),
        combine=str(rng.choice(["token", "product"])),
        d_max=int(rng.choice(EXITS)) if rng.random() < 0.3 else None,
    )


@pytest.mark.parametrize("seed", range(40))
def test_vectorised_outcomes_equal_step_by_step_ones(
    seed: int, random_trace_of: TraceOf, with_branches_of: TraceOf
) -> None:
    rng = np.random.default_rng(seed)
    traces = [with_later(rng, random_trace_of(rng, EXITS, f"p{i}"), seed % 3) for i in range(4)]
    if seed >= 10:
        traces = [with_branches_of(rng, trace, int(rng.integers(2, 8)), rng.random()) for trace in traces]
    batch, decision = TraceBatch(traces), random_decision(rng)
    outcomes = step_outcomes(batch, decision, num_layers=6)
    estimated = np.zeros_like(outcomes.work)
    estimated[~outcomes.is_exact] = outcomes.estimated_work
    for trace, first in zip(traces, batch.first_row, strict=True):
        for start in range(1, trace.num_positions):
            step = simulate(trace, start, decision, None, 6)
            record = step.record
            assert outcomes.is_exact[first + start] == step.is_exact
            known = record_work(record, is_adaptive=False) - record_work(step.known, is_adaptive=False)
            np.testing.assert_allclose(estimated[first + start], known, atol=1e-9)
            row = first + start
            assert outcomes.num_drafted[row] == record.num_drafted
            assert outcomes.num_accepted[row] == record.num_accepted
            assert outcomes.num_emitted[row] == record.num_emitted
            assert outcomes.num_layer_calls[row] == record.num_layer_calls
            np.testing.assert_allclose(outcomes.work[row], record_work(record, is_adaptive=False))


@pytest.mark.parametrize("seed", range(10))
def test_static_replay_equals_policy_replay(
    seed: int, random_trace_of: TraceOf, with_branches_of: TraceOf, costs: CostTable
) -> None:
    rng = np.random.default_rng(seed)
    traces = [with_branches_of(rng, random_trace_of(rng, EXITS, f"p{i}"), 5, 0.5) for i in range(5)]
    decision = random_decision(rng)
    fast = replay_static(traces, decision, costs, 6)
    slow = replay(traces, Fixed(decision), costs, 6, "none", keep_records=True)
    assert fast.prompt_ids == slow.prompt_ids and fast.tasks == slow.tasks
    for name in ("num_tokens", "num_steps", "num_drafted", "num_accepted", "num_layer_calls"):
        np.testing.assert_array_equal(getattr(fast, name), getattr(slow, name))
    np.testing.assert_allclose(fast.work, slow.work)
    np.testing.assert_allclose(fast.seconds, slow.seconds)
    assert slow.records is not None
    emitted = [sum(r.num_emitted for r in records) for records in slow.records]
    assert emitted == slow.num_tokens.tolist() == [t.num_positions - 1 for t in traces]


def test_totals_and_seconds_equal_hand_counts(trace_of: TraceOf, costs: CostTable) -> None:
    trace = trace_of([[1], [1], [1], [0], [1], [1], [1]], prompt_length=100)
    result = replay_static([trace], Decision(w_max=2, thresholds={2: 0.0}), costs, 8)
    # starts at 1: drafts 1, 2 accepted, emits 3 -> 4: drafts 4, 5 accepted, emits 3 -> 7, the end
    assert (result.num_steps[0], result.num_drafted[0], result.num_accepted[0], result.num_tokens[0]) == (2, 4, 4, 6)
    assert result.num_layer_calls[0] == 2 * (3 * 2 + 6)
    step = 6 * 1.0 + 6 * 1.15 + 3 * 0.5 + (2 + 3) * 0.05 + 0.25
    context = 0.01 * (6 + 6 * 3) * (101 + 104) / 1000
    assert result.seconds[0] == pytest.approx(2 * step + context)
    assert result.tokens_per_step == 3 and result.acceptance_rate == 1 and result.layer_calls_per_token == 4


def test_plain_replay_has_one_token_per_step_and_all_layers_per_token(trace_of: TraceOf, costs: CostTable) -> None:
    result = replay_static([trace_of([[1]] * 9)], PLAIN, costs, 8)
    assert result.tokens_per_step == 1 and result.layer_calls_per_token == 8
    assert np.isnan(result.acceptance_rate)
    assert result.speedup_over(result) == 1


def test_one_token_continuation_has_no_step(trace_of: TraceOf, costs: CostTable) -> None:
    result = replay_static([trace_of([[1]])], PLAIN, costs, 8)
    assert result.num_steps[0] == 0 and result.seconds[0] == 0 and np.isnan(result.tokens_per_second)


class Spy(Fixed):
    """Reads features and full signals, and keeps what it saw."""

    needs_features = True
    needs_full_signals = True

    def __init__(self) -> None:
        super().__init__(Decision(w_max=2, thresholds={2: 0.0}))
        self.seen: list[np.ndarray] = []
        self.records: list[StepRecord] = []
        self.num_resets = 0

    def reset(self) -> None:
        self.num_resets += 1

    def decide(self, features: np.ndarray | None) -> Decision:
        assert features is not None
        self.seen.append(features)
        return self.decision

    def observe(self, record: StepRecord) -> None:
        self.records.append(record)


def test_policy_sees_features_of_the_steps_before_and_is_charged_for_them(trace_of: TraceOf, costs: CostTable) -> None:
    trace, spy = trace_of([[1]] * 7), Spy()
    result = replay([trace, trace], spy, costs, 8, "none")
    assert spy.num_resets == 2 and len(spy.seen) == len(spy.records) == 4
    drafted, context = FEATURE_NAMES.index("last_drafted"), FEATURE_NAMES.index("log_context_length")
    assert [v[drafted] for v in spy.seen] == [0, 2, 0, 2]
    assert [round(float(np.expm1(v[context]))) for v in spy.seen] == [6, 9, 6, 9]
    assert [r.full_confidence for r in spy.records[:2]] == [trace.full_confidence[3], trace.full_confidence[6]]
    free = replay([trace, trace], Fixed(spy.decision), costs, 8, "none")
    assert result.seconds.sum() - free.seconds.sum() == pytest.approx(4 * (0.0625 + 0.125))


def test_static_policy_object_replays_like_its_decision(trace_of: TraceOf, costs: CostTable) -> None:
    trace = trace_of([[1], [0], [1], [1], [0], [1], [1], [1]])
    policy = StaticPolicy(exit_layers=(2,), threshold=0.4, w_max=3, alpha=0.2)
    by_policy = replay([trace], policy, costs, 8, "none")
    by_decision = replay_static([trace], policy.decide(None), costs, 8)
    np.testing.assert_allclose(by_policy.work, by_decision.work)


def test_seconds_of_fixed_decisions_are_their_replays_and_add_up_over_shards(
    random_trace_of: TraceOf, with_branches_of: TraceOf, costs: CostTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("specbound_profiling.replay.grid.CHUNK_ROWS", 40)  # several chunks
    rng = np.random.default_rng(0)
    traces = [with_branches_of(rng, random_trace_of(rng, EXITS, f"p{i}"), 5, 0.5) for i in range(6)]
    grid = [a.decision({"annealed": AnnealedConfidence(0.3)}) for a in static_grid(EXITS, (1, 2, 4), (0.5,))]
    grid += [grid[2], random_decision(rng), random_decision(rng), PLAIN]
    totals = static_seconds(traces, costs, grid, 6)
    np.testing.assert_allclose(totals, [replay_static(traces, d, costs, 6).seconds.sum() for d in grid])
    shards = static_seconds(traces[:2], costs, grid, 6) + static_seconds(traces[2:], costs, grid, 6)
    np.testing.assert_allclose(shards, totals)
