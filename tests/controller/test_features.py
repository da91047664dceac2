"""Step features: values by hand, causality, no costs."""

from collections.abc import Callable

import numpy as np
import pytest

from specbound_controller.compression import COMPRESSIONS
from specbound_controller.features import FEATURE_NAMES, FeatureState
from specbound_controller.records import StepRecord


def named(state: FeatureState) -> dict[str, float]:
    return dict(zip(FEATURE_NAMES, state.vector().tolist(), strict=True))


def test_first_step_knows_only_context_and_priors() -> None:
    state = FeatureState("int8")
    state.reset(7)
    values = named(state)
    assert values.pop("log_context_length") == pytest.approx(np.log(8))
    assert values.pop("acceptance_fast") == values.pop("acceptance_slow") == 0.5
    assert values.pop("compression_int8") == 1.0
    assert set(values.values()) == {0.0}


def test_values_after_two_steps_equal_hand_computation(record_of: Callable[..., StepRecord]) -> None:
    state = FeatureState("none")
    state.reset(10)
    state.update(record_of())
    state.update(
        record_of(
            context_length=12,
            num_drafted=2,
            num_accepted=2,
            num_emitted=3,
            exit_layers=(4, 4),
            confidences=(0.8, 0.6),
            entropies_nats=(0.4, 0.2),
            stop_reason="depth",
            full_margin=99.0,
        )
    )
    values = named(state)
    expected = {
        "last_drafted": 2,
        "last_accepted": 2,
        "last_is_rejected": 0,
        "last_exit_layer": 4,
        "last_stop_width": 0,
        "last_stop_depth": 1,
        "last_stop_off": 0,
        "previous_drafted": 3,
        "previous_accepted": 1,
        # (1, 2) -> half of it plus half of (1 accepted, 2 tested) -> half of it plus half of (2, 2)
        "acceptance_fast": (0.5 * 1 + 0.5 * 2) / (0.5 * 2 + 0.5 * 2),
        "acceptance_slow": (0.9 * 1 + 0.1 * 2) / 2,
        "accepted_fast": 0.5 * 0.5 + 0.5 * 2,
        "accepted_slow": 0.9 * 0.1 + 0.1 * 2,
        "log_steps_since_draft": 0,
        "has_full_signals": 1,
        "full_confidence": 0.75,
        "full_entropy_nats": 0.5,
        "full_margin": 20,
        "has_draft_signals": 1,
        "draft_confidence": 0.6,
        "draft_entropy_nats": 0.2,
        "mean_draft_confidence": 0.7,
        "mean_draft_entropy_nats": 0.3,
        "log_position": np.log(1 + 5),
        "log_context_length": np.log(1 + 15),
        "compression_none": 1,
    }
    assert values == pytest.approx({**dict.fromkeys(FEATURE_NAMES, 0.0), **expected}, abs=1e-6)


def test_sampling_temperature_holds_for_the_sequence(record_of: Callable[..., StepRecord]) -> None:
    state = FeatureState("none")
    state.reset(10, 0.7)
    state.update(record_of())
    assert named(state)["sampling_temperature"] == pytest.approx(0.7)
    state.reset(10)
    assert named(state)["sampling_temperature"] == 0.0


def test_plain_step_keeps_what_the_last_draft_said(record_of: Callable[..., StepRecord]) -> None:
    state = FeatureState("none")
    state.reset(10)
    state.update(record_of())
    before = named(state)
    off = record_of(context_length=12, num_drafted=0, num_accepted=0, num_emitted=1, exit_layers=(), stop_reason="off")
    state.update(off)
    after = named(state)
    assert after["log_steps_since_draft"] == pytest.approx(np.log(2))
    assert after["last_stop_off"] == 1 and after["last_stop_width"] == 0
    for name in ("last_drafted", "acceptance_fast", "acceptance_slow", "draft_confidence", "previous_drafted"):
        assert after[name] == before[name]


def test_signals_that_were_not_taken_are_flagged(record_of: Callable[..., StepRecord]) -> None:
    state = FeatureState("none")
    state.reset(10)
    nan = float("nan")
    state.update(record_of(confidences=(nan,) * 3, entropies_nats=(nan,) * 3, full_confidence=nan, full_margin=nan))
    values = named(state)
    assert values["has_full_signals"] == values["has_draft_signals"] == values["full_margin"] == 0
    assert np.isfinite(state.vector()).all()


def random_record(rng: np.random.Generator, record_of: Callable[..., StepRecord], context: int) -> StepRecord:
    drafted = int(rng.integers(0, 5))
    accepted = int(rng.integers(0, drafted + 1))
    return record_of(
        context_length=context,
        num_drafted=drafted,
        num_accepted=accepted,
        num_emitted=accepted + 1,
        exit_layers=(3,) * drafted,
        confidences=tuple(rng.random(drafted).tolist()),
        entropies_nats=tuple(rng.random(drafted).tolist()),
        stop_reason="width" if drafted else "off",
        full_confidence=float(rng.random()),
        seconds=float(rng.random()),
    )


def test_no_feature_changes_when_the_future_does(record_of: Callable[..., StepRecord]) -> None:
    rng = np.random.default_rng(0)
    past = [random_record(rng, record_of, 10 + i) for i in range(8)]
    runs = []
    for seed in (1, 2):
        state, vectors = FeatureState("none"), []
        state.reset(10)
        future = [random_record(np.random.default_rng(seed), record_of, 30 + i) for i in range(4)]
        for record in (*past, *future):
            vectors.append(state.vector())
            state.update(record)
        runs.append(np.array([*vectors, state.vector()]))
    np.testing.assert_array_equal(runs[0][: len(past) + 1], runs[1][: len(past) + 1])
    assert not np.array_equal(runs[0][-1], runs[1][-1])


def test_no_feature_holds_a_time_or_work(record_of: Callable[..., StepRecord]) -> None:
    vectors = []
    for changes in ({"seconds": 1.0}, {"seconds": 9.0, "layer_calls_by_rows": {1: 999}, "num_exit_tests": 77}):
        state = FeatureState("none")
        state.reset(10)
        state.update(record_of(**changes))
        vectors.append(state.vector())
    np.testing.assert_array_equal(*vectors)


def test_reset_forgets_the_last_prompt(record_of: Callable[..., StepRecord]) -> None:
    fresh, used = FeatureState("nf4"), FeatureState("nf4")
    used.reset(3)
    used.update(record_of())
    for state in (fresh, used):
        state.reset(12)
    np.testing.assert_array_equal(fresh.vector(), used.vector())


def test_names_are_unique_and_vectors_float32() -> None:
    assert len(set(FEATURE_NAMES)) == len(FEATURE_NAMES)
    for compression in COMPRESSIONS:
        vector = FeatureState(compression).vector()
        assert vector.shape == (len(FEATURE_NAMES),) and vector.dtype == np.float32


def test_unknown_compression_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"compression must be one of none, .* got 'int3'"):
        FeatureState("int3")
