"""From timings to rows: ratios of sums, the reference, when a speedup may be claimed."""

import math

import numpy as np
import pytest
import torch

from specbound.decoding.stats import DecodeStats
from specbound.differences import Difference
from specbound.evaluation import Evaluation
from specbound.measure import TimedPrompt, Timing
from specbound.report import Row
from specbound_controller.costs import WORK_NAMES
from specbound_profiling.replay_result import ReplayResult

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


def row_of(rows: list[Row], method: str, task: str = "all") -> Row:
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
