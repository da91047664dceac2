"""Replay of many prompts at once against replay step by step: every step equal, for every kind of policy."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from specbound.assets import demo_controller_dir
from specbound_controller.actions import Action, action_grid
from specbound_controller.controller import Controller
from specbound_controller.costs import WORK_NAMES, CostTable
from specbound_controller.features import FEATURE_NAMES
from specbound_controller.guard import GuardBatch, GuardLimits, NeverSlowerGuard
from specbound_controller.policy import AnnealedConfidence, StaticPolicy, decides_in_batches
from specbound_controller.records import STOP_REASONS, Decision, StepRecord
from specbound_controller.step_batch import Choices, StepBatch
from specbound_controller.work import record_work
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.replay.batch import play_rounds, replay_batch
from specbound_profiling.replay.replay import replay, replay_stepwise
from specbound_profiling.replay.result import ReplayResult
from specbound_profiling.replay.trace_batch import TraceBatch
from tests.profiling.conftest import with_later

TraceOf = Callable[..., PromptTrace]
EXITS, NUM_LAYERS = (0, 1, 3, 4), 6


class Hashing:
    """A policy that chooses by its features, so that it goes astray where one of them differs; with a guard."""

    needs_features = True

    def __init__(self, decisions: Sequence[Decision], costs: CostTable, seed: int) -> None:
        self.decisions = tuple(decisions)
        limits = GuardLimits(debt=2.0, probe_debt=1.0, first_pause=2, probe_steps=2)
        self.guard = NeverSlowerGuard(costs, NUM_LAYERS, True, limits)
        self.guards: GuardBatch | None = None
        self.weights = np.random.default_rng(seed).integers(1, 2**20, len(FEATURE_NAMES))

    @property
    def needs_full_signals(self) -> bool:
        return not self.guard.is_paused

    def chosen(self, features: np.ndarray) -> int:
        return int((np.round(features, 4) * 1e4).astype(np.int64) @ self.weights) % len(self.decisions)

    def reset(self) -> None:
        self.guard.reset()

    def decide(self, features: np.ndarray | None) -> Decision:
        assert features is not None
        return self.decisions[0 if self.guard.is_paused else self.chosen(features)]

    def observe(self, record: StepRecord) -> None:
        self.guard.observe(record)

    def reset_batch(self, num_sequences: int) -> None:
        self.guards = GuardBatch(self.guard, num_sequences)

    def decide_batch(self, features: np.ndarray | None, rows: np.ndarray) -> Choices:
        assert features is not None and self.guards is not None
        paused = self.guards.is_paused(rows)
        chosen = np.array([self.chosen(row) for row in features])
        return Choices(np.where(paused, 0, chosen), ~paused)

    def observe_batch(self, rows: np.ndarray, steps: StepBatch) -> None:
        assert self.guards is not None
        self.guards.observe(rows, steps)


def grid(alpha: float) -> list[Decision]:
    scores = {"annealed": AnnealedConfidence(alpha)}
    actions = action_grid(EXITS, (1, 2, 4, 6), (0.2, 0.5), "annealed", "product")
    actions += action_grid(EXITS, (3,), (0.4,), "annealed", "token", ((0.3, 0.4), (0.6, 0.2)))
    actions += (Action(EXITS[-1], 5, 0.1, "annealed", "product", lookup_threshold=0.3),)
    return [action.decision(scores) for action in actions]


def random_traces(
    rng: np.random.Generator, random_trace_of: TraceOf, with_branches_of: TraceOf, num_later: int = 0
) -> list[PromptTrace]:
    """num_later: drafts of a step after the first of which exits say something else."""
    traces = [random_trace_of(rng, EXITS, f"p{i}") for i in range(7)]
    traces[::2] = [replace(trace, eos_token_ids=(30,)) for trace in traces[::2]]  # drafted on branches only
    traces[::3] = [replace(trace, sampling_temperature=0.7) for trace in traces[::3]]
    traces = [with_later(rng, trace, num_later) for trace in traces]
    return [with_branches_of(rng, trace, int(rng.integers(2, 7)), rng.random()) for trace in traces]


@pytest.mark.parametrize("seed", range(12))
def test_every_step_equals_its_record(
    seed: int, random_trace_of: TraceOf, with_branches_of: TraceOf, costs: CostTable
) -> None:
    rng = np.random.default_rng(seed)
    decisions = grid(float(rng.choice([0.0, 0.6])))
    traces = random_traces(rng, random_trace_of, with_branches_of, seed % 3)
    policy = Hashing(decisions, costs, seed)
    records = replay_stepwise(traces, policy, costs, NUM_LAYERS, "int8", keep_records=True).records
    num_pauses, policy = policy.guard.num_pauses, Hashing(decisions, costs, seed)
    assert records is not None
    left = [list(steps) for steps in records]
    for round_ in play_rounds(TraceBatch(traces), policy, costs, NUM_LAYERS, "int8"):
        steps = round_.steps
        for k, prompt in enumerate(round_.prompts):
            record = left[prompt].pop(0)
            for name in ("context_length", "num_drafted", "num_accepted", "num_emitted"):
                assert getattr(steps, name)[k] == getattr(record, name), name
            assert STOP_REASONS[steps.stop_reason[k]] == record.stop_reason
            assert steps.exit_layer[k] == (record.exit_layers[-1] if record.exit_layers else 0)
            np.testing.assert_allclose(steps.work[k], record_work(record, is_adaptive=True), atol=1e-12)
    assert not any(left)
    assert policy.guard.num_pauses == num_pauses


def assert_equal(fast: ReplayResult, slow: ReplayResult) -> None:
    for name in ("num_tokens", "num_steps", "num_drafted", "num_accepted", "num_layer_calls"):
        np.testing.assert_array_equal(getattr(fast, name), getattr(slow, name), err_msg=name)
    np.testing.assert_allclose(fast.work, slow.work)
    np.testing.assert_allclose(fast.seconds, slow.seconds)
    assert fast.estimates is not None and slow.estimates is not None
    for name in ("num_steps", "num_checked"):
        np.testing.assert_array_equal(getattr(fast.estimates, name), getattr(slow.estimates, name), err_msg=name)
    for name in ("seconds", "error_s", "squared_error_s2"):
        np.testing.assert_allclose(getattr(fast.estimates, name), getattr(slow.estimates, name), atol=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_totals_and_estimates_are_equal(
    seed: int, random_trace_of: TraceOf, with_branches_of: TraceOf, costs: CostTable
) -> None:
    rng = np.random.default_rng(100 + seed)
    traces = random_traces(rng, random_trace_of, with_branches_of, seed % 3)
    fast = replay_batch(TraceBatch(traces), Hashing(grid(0.3), costs, seed), costs, NUM_LAYERS, "none")
    slow = replay_stepwise(traces, Hashing(grid(0.3), costs, seed), costs, NUM_LAYERS, "none")
    assert_equal(fast, slow)


def test_estimates_and_checks_occur(random_trace_of: TraceOf, with_branches_of: TraceOf, costs: CostTable) -> None:
    rng = np.random.default_rng(0)
    traces = [trace for _ in range(6) for trace in random_traces(rng, random_trace_of, with_branches_of)]
    result = replay(traces, Hashing(grid(0.0), costs, 0), costs, NUM_LAYERS, "none")
    assert result.estimates is not None
    assert result.estimates.num_steps.sum() > 5 and result.estimates.num_checked.sum() > 5
    assert result.estimated_share > 0 and result.estimated_share_error > 0


@pytest.mark.parametrize("exits", [(3,), (1, 4)])
def test_a_static_policy_replays_all_prompts_at_once(
    exits: tuple[int, ...], random_trace_of: TraceOf, with_branches_of: TraceOf, costs: CostTable
) -> None:
    rng = np.random.default_rng(5)
    traces = random_traces(rng, random_trace_of, with_branches_of)
    policy = StaticPolicy(exits, threshold=0.4, w_max=4, alpha=0.2, combine="product")
    assert_equal(
        replay(traces, policy, costs, NUM_LAYERS, "none"), replay_stepwise(traces, policy, costs, NUM_LAYERS, "none")
    )


def test_a_policy_that_replaces_decide_alone_is_driven_step_by_step() -> None:
    class Other(StaticPolicy):
        def decide(self, features: np.ndarray | None) -> Decision:
            return Decision(w_max=0)

    class Both(Other):
        def decide_batch(self, features: np.ndarray | None, rows: np.ndarray) -> Choices:
            return super().decide_batch(features, rows)

    assert decides_in_batches(StaticPolicy((1,)))
    assert not decides_in_batches(Other((1,)))
    assert decides_in_batches(Both((1,)))


@pytest.mark.parametrize("has_guard", [True, False])
def test_the_controller_replays_all_prompts_at_once(
    has_guard: bool, random_trace_of: TraceOf, with_branches_of: TraceOf, costs: CostTable
) -> None:
    rng, controller = np.random.default_rng(9), Controller.load(demo_controller_dir())
    exits, num_layers = controller.config.exit_layers, controller.config.num_layers
    traces = [with_branches_of(rng, random_trace_of(rng, exits, f"p{i}"), 6, 0.5) for i in range(12)]
    policies = [controller.policy(costs, "none", guard=has_guard) for _ in range(2)]
    slow = replay_stepwise(traces, policies[0], costs, num_layers, "none")
    assert_equal(replay(traces, policies[1], costs, num_layers, "none"), slow)
    assert 0.1 < slow.acceptance_rate < 0.9
    if has_guard:
        assert policies[0].guard is not None and policies[1].guard is not None
        assert policies[0].guard.num_pauses == policies[1].guard.num_pauses


def test_one_token_continuations_have_no_round(trace_of: TraceOf, costs: CostTable) -> None:
    result = replay_batch(TraceBatch([trace_of([[1]])]), StaticPolicy((2,), 0.0), costs, 8, "none")
    assert result.num_steps.tolist() == [0] and result.work.shape == (1, len(WORK_NAMES))
