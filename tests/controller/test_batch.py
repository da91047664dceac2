"""Decisions and scores of many sequences at once against those of one at a time."""

from collections.abc import Callable

import numpy as np
import pytest

from specbound_controller.actions import Action
from specbound_controller.controller import Controller
from specbound_controller.costs import WORK_NAMES, CostTable
from specbound_controller.features import FEATURE_NAMES
from specbound_controller.guard import GuardBatch, GuardLimits, NeverSlowerGuard
from specbound_controller.records import STOP_REASONS, ExitSignals, StepRecord
from specbound_controller.score import signal_array
from specbound_controller.step_batch import StepBatch
from specbound_controller.work import record_work


def as_batch(records: list[StepRecord], is_adaptive: bool) -> StepBatch:
    """What the guard reads of some records; the rest is left empty."""

    def column(name: str) -> np.ndarray:
        return np.array([getattr(record, name) for record in records])

    return StepBatch(
        context_length=column("context_length"),
        num_drafted=column("num_drafted"),
        num_accepted=column("num_accepted"),
        num_emitted=column("num_emitted"),
        exit_layer=np.zeros(len(records), dtype=np.int64),
        stop_reason=np.array([STOP_REASONS.index(record.stop_reason) for record in records]),
        draft_signals=np.zeros((len(records), 5)),
        full_signals=np.zeros((len(records), 4)),
        work=np.array([record_work(record, is_adaptive) for record in records]).reshape(-1, len(WORK_NAMES)),
    )


def test_many_decisions_equal_single_ones(
    controller_of: Callable[..., Controller], costs_of: Callable[..., CostTable]
) -> None:
    controller = controller_of()
    policy = controller.policy(costs_of(per_context=2e-3), "none", guard=False)
    features = np.tile(controller.sample.features, (4, 1))
    features += np.random.default_rng(0).normal(scale=0.5, size=features.shape).astype(np.float32)
    policy.reset_batch(len(features))
    choices = policy.decide_batch(features, np.arange(len(features)))
    assert [policy.decisions[i] for i in choices.decision] == [policy.decide(row) for row in features]
    assert len(set(choices.decision.tolist())) > 3 and choices.wants_full_signals.all()


@pytest.mark.parametrize("score", ["fixed", "learned"])
def test_the_stored_static_action_is_played_outside_pauses(
    score: str, controller_of: Callable[..., Controller], costs_of: Callable[..., CostTable]
) -> None:
    action = Action(4, 4, 0.0 if score == "fixed" else 0.4, score)
    policy = controller_of(static_actions={"none": action}).policy(costs_of(), "none")
    features = np.zeros((3, 30), dtype=np.float32)
    policy.reset_batch(3)
    choices = policy.decide_batch(features if policy.needs_features else None, np.arange(3))
    assert [policy.decisions[i] for i in choices.decision] == [policy.decide(features[0])] * 3
    assert choices.wants_full_signals.tolist() == [policy.needs_full_signals] * 3 == [score == "learned"] * 3


@pytest.mark.parametrize("is_adaptive", [True, False])
def test_guards_of_many_sequences_pause_as_one_each(
    is_adaptive: bool, record_of: Callable[..., StepRecord], costs_of: Callable[..., CostTable]
) -> None:
    rng, costs = np.random.default_rng(1), costs_of(per_context=1e-6, decision=0.3)
    limits = GuardLimits(debt=4.0, probe_debt=2.0, first_pause=3, probe_steps=3)
    single = [NeverSlowerGuard(costs, 12, is_adaptive, limits) for _ in range(5)]
    counter = NeverSlowerGuard(costs, 12, is_adaptive, limits)
    batch = GuardBatch(counter, 5)
    num_paused = 0
    for _ in range(300):
        rows = np.flatnonzero(rng.random(5) < 0.7)
        paused = batch.is_paused(rows)
        assert paused.tolist() == [single[row].is_paused for row in rows]
        num_paused += int(paused.sum())
        records = [record_of(num_emitted=int(rng.integers(1, 4)), context_length=50) for row in rows]
        for row, record in zip(rows, records, strict=True):
            single[row].observe(record)
        batch.observe(rows, as_batch(records, is_adaptive))
    assert counter.num_pauses == sum(guard.num_pauses for guard in single) > 10
    assert counter.num_paused_steps == num_paused == sum(guard.num_paused_steps for guard in single)


def test_learned_scores_of_rows_at_different_exits_equal_single_ones(controller_of: Callable[..., Controller]) -> None:
    rng, score = np.random.default_rng(2), controller_of().score
    layers = rng.choice(score.exit_layers, 20)
    values = rng.random((20, 5))
    features = rng.normal(size=(20, len(FEATURE_NAMES))).astype(np.float32)
    lengths, tokens, shares = rng.integers(0, 9, 20), rng.integers(6, 9, 20), rng.random(20)
    agreement = np.where(tokens == 7, 1, -1) * (lengths > 0)
    signals = signal_array(*values.T, np.arange(20) % 4, agreement, lengths, shares)
    many = score.probabilities_at(signals, layers, features)
    for row, (confidence, entropy, margin, noised, probability) in enumerate(values):
        shown = (
            confidence,
            0.0,
            entropy,
            margin,
            noised,
            probability,
            int(tokens[row]),
            int(lengths[row]),
            shares[row],
        )
        one = ExitSignals(int(layers[row]), row % 4, 7, *shown)
        assert many[row] == pytest.approx(score(one, features[row]), abs=1e-6)
