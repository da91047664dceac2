"""One step read off a trace, against counts made by hand."""

from collections.abc import Callable

import pytest

from specbound_controller.policy import AnnealedConfidence
from specbound_controller.records import Decision
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.replay.simulate import simulate

TraceOf = Callable[..., PromptTrace]
FIXED = Decision(w_max=3, thresholds={2: 0.0})
CONFIDENT = AnnealedConfidence(0.0)


def test_plain_decoding_calls_every_layer_once_and_emits_one_token(trace_of: TraceOf) -> None:
    record = simulate(trace_of([[1]] * 6), 1, Decision(w_max=0), None, 8).record
    assert (record.num_drafted, record.num_accepted, record.num_emitted) == (0, 0, 1)
    assert record.layer_calls_by_rows == {1: 8}
    assert record.head_reads_by_rows == {1: 1}
    assert (record.stop_reason, record.num_exit_tests, record.context_length) == ("off", 0, 6)


def test_full_draft_runs_shallow_layers_row_by_row_and_deep_layers_once(trace_of: TraceOf) -> None:
    record = simulate(trace_of([[1]] * 10), 2, FIXED, None, 8).record
    assert (record.num_drafted, record.num_accepted, record.num_emitted) == (3, 3, 4)
    assert record.layer_calls_by_rows == {1: 4 * 2, 4: 6}
    assert record.head_reads_by_rows == {1: 3, 4: 1}
    assert record.stop_reason == "width"


def test_wrong_draft_ends_acceptance_but_not_the_draft(trace_of: TraceOf) -> None:
    record = simulate(trace_of([[1], [1], [0], [1], [1], [1], [1]]), 1, FIXED, None, 8).record
    assert (record.num_drafted, record.num_accepted, record.num_emitted) == (3, 1, 2)
    assert record.layer_calls_by_rows == {1: 8, 4: 6}


def test_draft_that_fails_its_first_test_keeps_its_shallow_work(trace_of: TraceOf) -> None:
    decision = Decision(w_max=3, thresholds={2: 0.9}, score=CONFIDENT)
    record = simulate(trace_of([[1]] * 6), 1, decision, None, 8).record
    assert (record.num_drafted, record.num_emitted, record.stop_reason) == (0, 1, "depth")
    assert record.layer_calls_by_rows == {1: 8}
    assert record.head_reads_by_rows == {1: 2}
    assert record.num_exit_tests == 1


def test_token_that_fails_the_first_exit_is_advanced_with_shallower_ones(trace_of: TraceOf) -> None:
    confidence = [[0.9, 0.9], [0.9, 0.9], [0.1, 0.9], [0.1, 0.1], [0.9, 0.9], [0.9, 0.9]]
    decision = Decision(w_max=4, thresholds={2: 0.5, 5: 0.5}, score=CONFIDENT)
    record = simulate(trace_of([[1, 1]] * 6, (2, 5), confidence), 1, decision, None, 8).record
    # token 0: layers 0-2, exit at 2. token 1: 0-2, fails, 2-5 with token 0 beside it, exit at 5.
    # token 2: 0-2, fails, 2-5 alone, fails: the draft ends. Verification: 5-8 with all three.
    assert record.exit_layers == (2, 5)
    assert record.layer_calls_by_rows == {1: 2 + 2 + 2 + 3, 2: 3, 3: 3}
    assert record.head_reads_by_rows == {1: 5, 3: 1}
    assert (record.num_exit_tests, record.num_emitted, record.stop_reason) == (5, 3, "depth")


def test_product_rule_stops_where_the_product_falls_below_the_threshold(trace_of: TraceOf) -> None:
    trace = trace_of([[1]] * 8, confidence=[[0.8]] * 8)
    by_token = Decision(w_max=5, thresholds={2: 0.6}, score=CONFIDENT)
    by_product = Decision(w_max=5, thresholds={2: 0.6}, score=CONFIDENT, combine="product")
    assert simulate(trace, 1, by_token, None, 8).record.num_drafted == 5
    assert simulate(trace, 1, by_product, None, 8).record.num_drafted == 2  # 0.8, 0.64, 0.512


def test_width_is_clipped_to_the_tokens_still_wanted_less_one(trace_of: TraceOf) -> None:
    record = simulate(trace_of([[1]] * 4), 2, FIXED, None, 8).record
    assert (record.num_drafted, record.num_emitted) == (1, 2)
    assert simulate(trace_of([[1]] * 4), 3, FIXED, None, 8).record.stop_reason == "off"


def test_accepted_eos_ends_the_draft_and_drops_the_bonus_token(trace_of: TraceOf) -> None:
    trace = trace_of([[1]] * 4, is_final_eos=True, token_limit=50)
    record = simulate(trace, 2, FIXED, None, 8).record
    assert (record.num_drafted, record.num_accepted, record.num_emitted) == (2, 2, 2)
    assert record.stop_reason == "eos"
    assert record.full_confidence == trace.full_confidence[3]
    assert record.head_reads_by_rows == {1: 2, 3: 1}  # the EOS token is verified like any other


def test_wrongly_drafted_eos_ends_the_draft_but_not_the_output(trace_of: TraceOf) -> None:
    trace = trace_of([[1], [1], [0], [1], [1], [1]], eos_token_ids=(9,))  # wrong drafts are token 9
    record = simulate(trace, 1, FIXED, None, 8).record
    assert (record.num_drafted, record.num_accepted, record.num_emitted) == (2, 1, 2)
    assert record.stop_reason == "eos"


def test_wrong_draft_near_an_eos_end_may_draft_past_it(trace_of: TraceOf) -> None:
    trace = trace_of([[1], [1], [0], [1]], is_final_eos=True, token_limit=50, eos_token_ids=(13,))
    record = simulate(trace, 2, Decision(w_max=1, thresholds={2: 0.0}), None, 8).record
    assert (record.num_drafted, record.num_emitted) == (1, 1)
    assert simulate(trace, 3, FIXED, None, 8).record.num_emitted == 1


def test_exit_layer_that_was_not_recorded_is_refused_by_name(trace_of: TraceOf) -> None:
    with pytest.raises(ValueError, match=r"exit_layer must be one of the log's \(2,\), got 3"):
        simulate(trace_of([[1]] * 4), 1, Decision(w_max=1, thresholds={3: 0.0}), None, 8)
