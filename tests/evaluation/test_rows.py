"""From timings to rows: ratios of sums, the reference, when a speedup may be claimed."""

import math
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from specbound.decoding.stats import DecodeStats
from specbound.evaluation.differences import Difference
from specbound.evaluation.rows import PLAIN_AT_TOKEN, EvaluatedRow, Evaluation, gain_share, with_oracle
from specbound.evaluation.timing import TimedPrompt, Timing
from specbound_controller.costs import WORK_NAMES
from specbound_profiling.replay.result import ReplayResult

IDS = torch.zeros(1, 3, dtype=torch.int64)


def stats(num_tokens: int, num_steps: int, seconds: float, prefill: float = 0.0) -> DecodeStats:
    return DecodeStats(
        num_tokens=num_tokens,
        num_steps=num_steps,
        num_step_tokens=num_tokens - 1,
        num_drafted=10,
        num_accepted=5,
        num_layer_calls=8 * num_steps,
        seconds=seconds,
        prefill_seconds=prefill,
    )


def evaluation(
    fast_s: tuple[float, float] = (1.0, 1.0),
    transformers_s: tuple[float, float] = (3.0, 5.0),
    differences: tuple[Difference, ...] = (),
    repeat: int = 1,
) -> Evaluation:
    """Two prompts of 11 and 21 tokens, `repeat` times: plain takes 2 s and 4 s."""
    kinds = ["prose", "code"] * repeat
    prompts = [TimedPrompt(f"p{i}", kind, IDS, 99) for i, kind in enumerate(kinds)]
    sizes = [11, 21]

    def timings(seconds: tuple[float, float], num_steps: int | None, prefill: float = 0.0) -> list[Timing]:
        pair = [
            Timing([0] * n, None if num_steps is None else stats(n, num_steps, s, prefill), [s], [prefill])
            for n, s in zip(sizes, seconds, strict=True)
        ]
        return pair * repeat

    return Evaluation(
        prompts,
        {
            "transformers": timings(transformers_s, None),
            "plain": timings((2.0, 4.0), 20, prefill=0.5),
            "fast": timings(fast_s, 5),
        },
        differences,
        "none",
        8,
        0,
    )


def row_of(rows: list[EvaluatedRow], method: str, task: str = "all") -> EvaluatedRow:
    return next(row for row in rows if (row.method, row.task) == (method, task))


def test_totals_are_ratios_of_sums() -> None:
    row = row_of(evaluation(fast_s=(1.0, 3.0)).timed_rows(), "fast")
    assert row.tokens_per_second == pytest.approx(32 / 4)
    assert row.speedup == pytest.approx(6 / 4)
    assert row.tokens_per_step == pytest.approx(30 / 10)
    assert row.acceptance_rate == 0.5


def test_each_kind_of_content_has_its_rows_and_the_totals_come_last() -> None:
    rows = evaluation().timed_rows()
    assert [row.task for row in rows] == ["prose"] * 3 + ["code"] * 3 + ["all"] * 3
    assert row_of(rows, "plain", "code").num_tokens == 21


def test_transformers_has_no_counts() -> None:
    row = row_of(evaluation().timed_rows(), "transformers")
    assert all(math.isnan(v) for v in (row.tokens_per_step, row.acceptance_rate, row.layer_calls_per_token))


def test_speedups_are_over_the_faster_of_plain_and_transformers() -> None:
    slow_peer, fast_peer = evaluation(), evaluation(transformers_s=(1.5, 1.5))
    assert (slow_peer.reference, fast_peer.reference) == ("plain", "transformers")
    assert row_of(fast_peer.timed_rows(), "plain").speedup == pytest.approx(0.5)
    assert row_of(fast_peer.timed_rows(), "fast").speedup == pytest.approx(1.5)


def test_a_wrong_output_takes_the_speedup_from_every_row_of_its_method() -> None:
    wrong = Difference("fast", "p0", 3, 7, 8, margin=1.0, noise=1e-6, is_near_tie=False)
    rows = evaluation(differences=(wrong,)).timed_rows()
    for task in ("prose", "code", "all"):
        assert math.isnan(row_of(rows, "fast", task).speedup)
    assert row_of(rows, "fast").outputs_equal is False
    assert row_of(rows, "fast", "code").outputs_equal is True
    assert row_of(rows, "plain").speedup == 1.0


@pytest.mark.parametrize(("repeat", "is_claimed"), [(49, False), (50, True)])
def test_near_ties_on_at_most_one_per_cent_of_the_prompts_keep_the_speedup(repeat: int, is_claimed: bool) -> None:
    tie = Difference("fast", "p0", 3, 7, 8, margin=1e-6, noise=1e-6, is_near_tie=True)
    row = row_of(evaluation(differences=(tie,), repeat=repeat).timed_rows(), "fast")
    assert (row.outputs_equal, row.num_near_ties) == (False, 1)
    assert math.isnan(row.speedup) is not is_claimed


def replay(seconds: list[float], num_steps: int) -> ReplayResult:
    return ReplayResult(
        prompt_ids=("p0", "p1"),
        tasks=("prose", "code"),
        num_tokens=np.array([10, 20]),
        num_steps=np.array([num_steps, num_steps]),
        num_drafted=np.array([4, 4]),
        num_accepted=np.array([4, 4]),
        num_layer_calls=np.array([40, 40]),
        work=np.zeros((2, len(WORK_NAMES))),
        seconds=np.array(seconds),
    )


def test_replayed_rows_add_the_measured_prefill() -> None:
    rows = evaluation().replayed_rows("oracle", replay([1.0, 1.0], 5), replay([2.0, 3.0], 20))
    row = row_of(rows, "oracle")
    # plain decodes for 6 s - 2 x 0.5 s of prefill = 5 s, modelled 5 s: the model is to scale; the oracle takes 2 s
    assert row.speedup == pytest.approx(6.0 / (1.0 + 2.0))
    assert row.tokens_per_second == pytest.approx(32 / 3.0)
    assert row.tokens_per_step == 3.0 and row.simulated and row.outputs_equal is None


def test_a_kind_of_content_whose_prompts_yield_one_token_has_plain_decoding_s_speed() -> None:
    rows = evaluation().replayed_rows("oracle", replay([0.0, 1.0], 5), replay([0.0, 3.0], 20))
    assert row_of(rows, "oracle", "prose").speedup == pytest.approx(1.0)


def test_prefill_is_the_median_over_rounds_and_the_spread_is_of_totals() -> None:
    timings = [Timing([0], None, [3.0, 1.0, 2.0], [0.3, 0.1, 9.0]), Timing([0], None, [5.0, 4.0, 6.0], [0.5, 0.5, 0.5])]
    prompts = [TimedPrompt(f"p{i}", "prose", IDS, 9) for i in range(2)]
    result = Evaluation(prompts, {"plain": timings, "best_static": timings}, (), "none", 8, 0)
    assert result.prefill_seconds([0]) == 0.3
    assert result.spread() == (
        "seconds for all prompts over 3 rounds, least to most: plain 5.00 to 8.00, best static 5.00 to 8.00"
    )


def with_methods(base: Evaluation, **methods: list[Timing]) -> Evaluation:
    return replace(base, timings={**base.timings, **methods})


def test_a_run_with_other_tokens_takes_the_speedup_away() -> None:
    whole = evaluation()
    whole.timings["fast"][1].num_deviating_runs = 1
    assert math.isnan(row_of(whole.timed_rows(), "fast").speedup)
    assert whole.refused == ["fast"]


@pytest.mark.parametrize("without_claim", [("transformers",), ("transformers", "fast")])
def test_methods_without_a_claim_show_no_speedup_and_break_no_promise(without_claim: Collection[str]) -> None:
    whole = replace(evaluation(), without_claim=without_claim)
    rows = whole.timed_rows()
    assert all(math.isnan(row.speedup) is (row.method in without_claim) for row in rows)
    assert whole.refused == []


def test_plain_decoding_on_its_own_kernels_stands_beside_the_bitwise_one() -> None:
    own = [
        Timing([0] * 11, stats(11, 10, 1.0), [1.0], [0.1]),
        Timing([0] * 18 + [7, 0, 0], stats(21, 20, 1.5), [1.5], [0.1]),
    ]
    silent = {PLAIN_AT_TOKEN, "transformers"}
    bitwise = replace(evaluation(transformers_s=(0.5, 0.5)), exactness="bitwise", without_claim=silent)
    whole = with_methods(bitwise, **{PLAIN_AT_TOKEN: own})
    assert whole.reference == "plain"  # transformers is faster, but on other kernels
    rows = [row for row in whole.timed_rows() if row.task == "all" and row.method == "plain"]
    assert [row.exactness for row in rows] == ["bitwise", "token"]
    assert (rows[1].num_differing_tokens, rows[1].outputs_equal) == (1, False)
    assert rows[0].speedup == 1.0 and math.isnan(rows[1].speedup)
    # bitwise plain makes 32 tokens in 6 s, its own kernels 32 in 2.5 s, transformers 32 in 1 s
    assert [row.speed_over_fastest for row in rows] == pytest.approx([1 / 6, 1 / 2.5])
    assert math.isnan(rows[0].without_speedup().speed_over_fastest)


def sampled(whole: Evaluation) -> Evaluation:
    prompts = [replace(prompt, sampling={"do_sample": True, "seed": 1}) for prompt in whole.prompts]
    return replace(whole, prompts=prompts, without_claim={"transformers"})


def test_the_faster_one_makes_more_tokens_in_a_second_not_fewer_tokens() -> None:
    short = [Timing([0] * 2, None, [1.0]), Timing([0] * 2, None, [1.0])]  # 2 tokens/s; plain makes 32 in 6 s
    assert with_methods(sampled(evaluation()), transformers=short).reference == "plain"
    row = row_of(sampled(evaluation()).timed_rows(), "transformers")
    assert row.outputs_equal is None and row.num_differing_tokens == 0


def test_the_controller_is_compared_with_all_that_may_claim_a_speedup() -> None:
    def timings(first: float, second: float) -> list[Timing]:
        return [Timing([0] * n, stats(n, 5, s), [s], [0.0]) for n, s in ((11, first), (21, second))]

    wrong = Difference("broken", "p0", 3, 7, 8, margin=1.0, noise=1e-6, is_near_tie=False)
    whole = with_methods(evaluation(differences=(wrong,)), broken=timings(1, 1), controller=timings(1.0, 0.5))
    found = {(each.other, each.task): each.speed.ratio for each in whole.comparisons()}
    assert {other for other, _ in found} == {"plain", "fast"}
    assert found["plain", "all"] == pytest.approx(6.0 / 1.5)
    assert found["fast", "code"] == pytest.approx(1.0 / 0.5)
    assert found["fast", "prose"] == pytest.approx(1.0)


def test_rounds_give_the_slowest_and_the_fastest_speed() -> None:
    timings = [Timing([0] * 10, None, [1.0, 2.0]), Timing([0] * 20, None, [2.0, 4.0])]
    prompts = [TimedPrompt(f"p{i}", "prose", IDS, 9) for i in range(2)]
    row = row_of(Evaluation(prompts, {"plain": timings}, (), "none", 8, 0).timed_rows(), "plain")
    assert (row.tokens_per_second_low, row.tokens_per_second_high) == (5.0, 10.0)


def test_the_way_to_the_oracle() -> None:
    def row(method: str, speedup: float) -> Any:
        return replace(row_of(evaluation().timed_rows(), "plain"), method=method, speedup=speedup)

    found = with_oracle([row("controller", 1.5), row("slower", 0.9), row("silent", math.nan), row("oracle", 2.0)])
    assert [each.share_of_oracle_gain for each in found[:2]] == pytest.approx([0.5, -0.1])
    assert [each.regret_to_oracle for each in found[:2]] == pytest.approx([0.25, 0.55])
    assert math.isnan(found[2].share_of_oracle_gain) and math.isnan(found[2].regret_to_oracle)
    assert math.isnan(gain_share(1.1, 1.0))
