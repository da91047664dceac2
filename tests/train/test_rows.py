"""Training rows: features equal the replay's, targets equal what actions really do on the trace."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from specbound_controller.actions import Action, action_grid
from specbound_controller.config import ControllerConfig
from specbound_controller.controller import Controller, Sample
from specbound_controller.costs import CostTable
from specbound_controller.features import FEATURE_NAMES
from specbound_controller.mlp import Mlp
from specbound_controller.policy import Policy
from specbound_controller.records import Decision, StepRecord
from specbound_controller.score import SIGNAL_NAMES, LearnedScore
from specbound_controller.step_policy import CurveLayout, StepPolicy
from specbound_controller.work import record_work
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.replay.replay import replay
from specbound_profiling.replay.simulate import simulate
from specbound_profiling.replay.trace_batch import TraceBatch
from specbound_train.rows import ExploringPolicy, collect_steps, curve_rows, score_rows
from tests.profiling.conftest import with_branches
from tests.train.conftest import synthetic_trace

NUM_LAYERS = 12
EXITS = (0, 2, 4)
ACTIONS = action_grid(EXITS, (1, 2, 4), (0.3, 0.6), lookup_first=((0.5, 0.4), (0.6, 0.6)))


def random_score(seed: int = 0) -> LearnedScore:
    rng = np.random.default_rng(seed)
    inputs = len(SIGNAL_NAMES) + len(EXITS) + len(FEATURE_NAMES)
    shapes = ((8, inputs), (8,), (1, 8), (1,))
    mlp = Mlp(*(rng.normal(scale=0.3, size=shape).astype(np.float32) for shape in shapes))
    return LearnedScore(mlp, EXITS, (1.1, 1.0, 1.2), (0.5, 1.0, 0.5))


@pytest.fixture
def traces_of() -> Callable[..., list[PromptTrace]]:
    """With lookups in the first column."""

    def traces(seed: int, num_prompts: int, num_positions: int) -> list[PromptTrace]:
        rng = np.random.default_rng(seed)
        return [synthetic_trace(rng, index, num_positions, EXITS) for index in range(num_prompts)]

    return traces


class RandomPolicy:
    """Random actions; keeps the features that it was shown."""

    needs_features = needs_full_signals = True

    def __init__(self, seed: int = 0) -> None:
        self.rng, self.seen = np.random.default_rng(seed), []
        self.decisions = [action.decision({"learned": random_score()}) for action in ACTIONS]

    def reset(self) -> None:
        pass

    def decide(self, features: np.ndarray | None) -> Decision:
        self.seen.append(features)
        return self.decisions[int(self.rng.integers(len(self.decisions)))]

    def observe(self, record: StepRecord) -> None:
        pass


def test_features_of_the_rows_are_those_that_the_policy_saw(
    traces_of: Callable[..., list[PromptTrace]], costs_of: Callable[..., CostTable]
) -> None:
    policy = RandomPolicy()
    batch = TraceBatch(traces_of(0, 4, 30))
    steps, result = collect_steps(batch, np.arange(4), policy, costs_of(), NUM_LAYERS, "none")
    assert len(steps) == result.num_steps.sum()
    np.testing.assert_array_equal(steps.features, np.array(policy.seen))
    np.testing.assert_array_equal(steps.folds, np.repeat(np.arange(4), result.num_steps))
    assert set(batch.position[steps.rows]) <= set(range(1, 30)) and (np.diff(steps.rows) > 0).all()


@pytest.mark.parametrize("rollout_share", [0.0, 0.5, 1.0])
def test_targets_equal_the_step_that_each_action_would_take(
    traces_of: Callable[..., list[PromptTrace]], costs_of: Callable[..., CostTable], rollout_share: float
) -> None:
    rng = np.random.default_rng(7)
    traces = [replace(trace, eos_token_ids=(9,)) for trace in traces_of(1, 3, 25)]
    traces = [with_branches(rng, trace, 4, rollout_share) for trace in traces]
    assert all((trace.branches is not None) == (rollout_share > 0) for trace in traces)
    batch, scores = TraceBatch(traces), (random_score(0), random_score(1))
    layout = CurveLayout(ACTIONS)
    steps, _ = collect_steps(batch, np.arange(3) % 2, RandomPolicy(1), costs_of(), NUM_LAYERS, "none")
    rows = curve_rows(steps, layout, scores, NUM_LAYERS)
    reached = rows.is_reached.reshape(len(rows), layout.num_curves, layout.longest)
    known = rows.is_known.reshape(reached.shape)
    for row in range(len(rows)):
        trace = traces[np.searchsorted(batch.end_row, steps.rows[row], side="right")]
        start, score = int(batch.position[steps.rows[row]]), scores[steps.folds[row]]
        for action in ACTIONS[1:]:
            decision = action.decision({"learned": score})
            record = simulate(trace, start, decision, steps.features[row], NUM_LAYERS).record
            width = min(action.width, 25 - start - 1)
            profile = layout.profile_of(action)
            assert reached[row, profile, :width].sum() == record.num_accepted
            drafted, run = layout.drafted_curve(profile), layout.run_curve(profile)
            if drafted is not None:
                assert reached[row, drafted, :width].sum() == record.num_drafted
            if run is not None:
                assert (reached & known)[row, run, :width].sum() == record.num_exit_tests
        survivals = reached[row, : layout.num_survivals]
        is_next = np.concatenate((np.ones_like(survivals[:, :1]), survivals[:, :-1]), axis=1)
        is_next = np.concatenate((is_next, is_next[layout.num_survivals - layout.num_looking_up :]))
        is_allowed = np.arange(layout.longest) < 25 - start - 1  # what the length limit does not cut
        np.testing.assert_array_equal(known[row], is_next & is_allowed)


def test_prices_of_the_step_policy_are_those_of_the_replayed_step(
    traces_of: Callable[..., list[PromptTrace]], costs_of: Callable[..., CostTable]
) -> None:
    """Where the draft is certain to get as far as it did."""
    trace, costs, layout = traces_of(2, 1, 60)[0], costs_of(), CurveLayout(ACTIONS)
    score, policy = random_score(), RandomPolicy()
    features = np.random.default_rng(0).random(len(FEATURE_NAMES)).astype(np.float32)
    for start in (1, 10, 30):
        for a, action in enumerate(ACTIONS):
            record = simulate(trace, start, action.decision({"learned": score}), features, NUM_LAYERS).record
            logits = np.full((layout.num_curves, layout.longest), -60.0, dtype=np.float32)
            logits[:, : record.num_drafted] = 60.0
            is_run = [exit_layer != 0 for exit_layer in record.exit_layers] + [record.stop_reason == "depth"]
            logits[layout.num_survivals :] = -60.0
            logits[layout.num_survivals :, np.flatnonzero(is_run)] = 60.0
            zeros = [np.zeros(shape, np.float32) for shape in ((1, len(features)), (1,), (layout.num_outputs, 1))]
            certain = StepPolicy(Mlp(*zeros, logits.ravel()), ACTIONS)
            _, seconds = certain.table(features, np.array(trace.prompt_length + start), costs, NUM_LAYERS)
            assert seconds[a] == pytest.approx(costs.seconds(record_work(record, policy.needs_features)), rel=1e-6)


def test_score_rows_are_drafts_whose_predecessors_were_accepted(
    traces_of: Callable[..., list[PromptTrace]], costs_of: Callable[..., CostTable]
) -> None:
    traces = traces_of(3, 2, 20)
    batch = TraceBatch(traces)
    steps, _ = collect_steps(batch, np.arange(2), RandomPolicy(2), costs_of(), NUM_LAYERS, "none")
    rows = score_rows(steps, 4)
    wanted = []
    for exit_index in range(len(EXITS)):
        for row in steps.rows:
            trace = traces[np.searchsorted(batch.end_row, row, side="right")]
            start = int(batch.position[row])
            for draft in range(min(4, 20 - start)):
                if exit_index > 0 or trace.lookups[start + draft, 0] > 0:  # a lookup may find nothing
                    wanted.append((exit_index, draft, bool(trace.is_accepted[start + draft, exit_index])))
                if not trace.is_accepted[start + draft, exit_index]:
                    break
    assert set(rows.folds) == {0, 1} and len(rows.subset(rows.folds == 0)) == (rows.folds == 0).sum()
    draft_index = rows.inputs[:, SIGNAL_NAMES.index("draft_index")].astype(int)
    assert list(zip(rows.exit_index.tolist(), draft_index.tolist(), rows.is_accepted.tolist(), strict=True)) == wanted


def test_exploring_policy_plays_its_share_of_random_actions(costs_of: Callable[..., CostTable]) -> None:
    base: Policy = RandomPolicy()
    base.decisions = [Decision(w_max=0)]  # type: ignore[attr-defined]
    other = Action(2, 3).decision({})
    policy = ExploringPolicy(base, [other], 0.25, np.random.default_rng(0))
    share = np.mean([policy.decide(None) is other for _ in range(2000)])
    assert share == pytest.approx(0.25, abs=0.03)


def test_controller_drafts_as_far_as_the_targets_say(
    traces_of: Callable[..., list[PromptTrace]], costs_of: Callable[..., CostTable]
) -> None:
    """A controller that computes its scores one by one drafts as far as the training rows say."""
    traces, score = traces_of(4, 2, 30), random_score(5)
    batch = TraceBatch(traces)
    layout = CurveLayout(ACTIONS)
    shapes = ((2, len(FEATURE_NAMES)), (2,), (layout.num_outputs, 2), (layout.num_outputs,))
    action = Action(4, 4, 0.3, "learned")
    player = Controller(
        ControllerConfig(
            EXITS, 12, "f", ("none",), ACTIONS, 0.0, score.slopes, score.offsets, static_actions={"none": action}
        ),
        score.mlp,
        Mlp(*(np.zeros(shape, dtype=np.float32) for shape in shapes)),
        Sample(np.ones((1, len(FEATURE_NAMES)), np.float32), np.ones(1, np.float32)),
    )
    policy = player.policy(costs_of(), "none", guard=False)
    result = replay(traces, policy, costs_of(), 12, "none", keep_records=True)
    steps, _ = collect_steps(batch, np.zeros(2, dtype=int), policy, costs_of(), 12, "none")
    rows = curve_rows(steps, layout, (score,), 12)
    reached = rows.is_reached.reshape(len(rows), layout.num_curves, layout.longest)
    drafted = reached[:, layout.drafted_curve(layout.profile_of(replace(action, width=1)))].sum(axis=1)
    records = [record for prompt in result.records or () for record in prompt]
    assert [record.num_drafted for record in records] == np.minimum(drafted, batch.max_width[steps.rows]).tolist()
    assert len({record.num_drafted for record in records}) > 2
