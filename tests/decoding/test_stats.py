"""The metrics follow from counts, divided last."""

import math
from dataclasses import replace

from specbound.decoding.stats import DecodeStats
from specbound_controller.records import StepRecord


def record(drafted: int, accepted: int, emitted: int, calls: dict[int, int]) -> StepRecord:
    return StepRecord(10, drafted, accepted, emitted, (2,) * drafted, (), (), (), "width", calls, {1: drafted}, 0)


def test_metrics_of_a_hand_made_run() -> None:
    stats = DecodeStats(num_tokens=1, seconds=2.0, prefill_seconds=0.5)
    stats.add_step(record(4, 3, 4, {1: 10, 5: 6}), keep=True)
    stats.add_step(record(4, 0, 1, {1: 10, 5: 6}), keep=True)
    stats.add_step(record(0, 0, 1, {1: 8}), keep=False)
    assert stats.num_tokens == 7
    assert stats.acceptance_rate == 3 / 8
    assert stats.tokens_per_step == 6 / 3
    assert stats.layer_calls_per_token == (16 + 16 + 8) / 6
    assert stats.acceptance_rate_at == {1: 1 / 3, 2: 1 / 3, 3: 1 / 3}
    assert stats.tokens_per_second == 3.5
    assert stats.decode_tokens_per_second == 6 / 1.5
    assert len(stats.steps) == 2


def test_accepted_drafts_are_counted_by_what_proposed_them() -> None:
    chain = replace(record(3, 2, 3, {1: 4}), exit_layers=(0, 4, 4))
    tree = replace(record(3, 2, 3, {4: 4}), sources=("bigrams", "context", "exit"), parents=(0, 0, 2), path=(2, 3))
    stats = DecodeStats()
    for step in (chain, tree):
        stats.add_step(step, keep=False)
    assert stats.accepted_by_source == {"context": 2, "exit": 2}
    assert (stats + stats).accepted_by_source == {"context": 4, "exit": 4}


def test_pooling_adds_counts_and_an_empty_run_has_no_rates() -> None:
    stats = DecodeStats(num_tokens=1)
    stats.add_step(record(2, 1, 2, {1: 4}), keep=True)
    pooled = stats + stats
    assert (pooled.num_tokens, pooled.num_drafted, pooled.accepted_histogram) == (6, 4, {1: 2})
    assert math.isnan(DecodeStats().acceptance_rate) and math.isnan(DecodeStats().tokens_per_second)
