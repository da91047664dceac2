"""Calibration of live steps: which drafts are judged, and what their score is held against."""

import math

import pytest

from specbound_controller.records import StepRecord
from specbound_profiling.log.live_steps import LiveSteps
from specbound_train.calibration.of_live_steps import calibrate_live


def step(scores: tuple[float, ...], num_accepted: int, stop_reason: str = "width") -> StepRecord:
    count = len(scores)
    return StepRecord(
        9, count, num_accepted, num_accepted + 1, (1,) * count, scores, scores, scores, stop_reason, {1: 6}, {1: 1}, 0
    )


def test_drafts_after_the_first_wrong_one_are_not_judged() -> None:
    steps = (step((0.9, 0.8, 0.3), 1), step((0.7, 0.6), 2), step((0.5,), 0, "depth"), step((), 0, "off"))
    found = calibrate_live([LiveSteps("p", "none", "static", steps)])
    assert (found.policy, found.num_prompts, found.num_steps) == ("static", 1, 4)
    assert (found.num_drafted, found.num_accepted, found.tokens_per_step) == (6, 3, 7 / 4)
    assert found.stop_reasons == {"width": 2, "depth": 1, "off": 1}
    assert found.drafts.num_judged == found.drafts.num_scored == 5  # the draft with score 0.3 is not
    assert found.drafts.acceptance == found.drafts.scored_acceptance == pytest.approx(3 / 5)
    assert found.drafts.score == pytest.approx((0.9 + 0.8 + 0.7 + 0.6 + 0.5) / 5)
    outcomes = ((0.9, 1), (0.8, 0), (0.7, 1), (0.6, 1), (0.5, 0))
    assert found.drafts.measures.brier == pytest.approx(sum((p - y) ** 2 for p, y in outcomes) / 5)
    assert found.drafts.measures.auroc == pytest.approx(4 / 6)  # of 3 x 2 pairs only 0.8 stands above two accepted ones
    assert [each.num_judged for each in found.by_place] == [3, 2]
    assert [each.acceptance for each in found.by_place] == pytest.approx([2 / 3, 1 / 2])


def test_drafts_without_a_test_are_judged_but_not_scored() -> None:
    found = calibrate_live([LiveSteps("p", "none", "static", (step((math.nan, 0.8), 1),))])
    assert (found.drafts.num_judged, found.drafts.num_scored) == (2, 1)
    assert (found.drafts.acceptance, found.drafts.scored_acceptance) == (0.5, 0.0)
    first = found.by_place[0]
    assert first.num_scored == 0 and math.isnan(first.score) and math.isnan(first.measures.ece)


def test_plain_decoding_has_no_drafts() -> None:
    found = calibrate_live([LiveSteps("p", "none", "plain", (step((), 0, "off"),))])
    assert found.num_drafted == found.drafts.num_judged == 0 and found.by_place == ()
    assert math.isnan(found.drafts.acceptance) and found.tokens_per_step == 1
