"""The bandit's books, worked out by hand."""

from collections.abc import Callable

import pytest

from specbound_controller.actions import PLAIN, Action
from specbound_controller.baselines.situation import Situation
from specbound_controller.baselines.ucb import UcbSettings
from specbound_controller.costs import CostTable
from specbound_controller.records import StepRecord

ARMS = (PLAIN, Action(2, 3))


def test_arm_with_the_best_ratio_of_sums_is_played(
    costs_of: Callable[..., CostTable], record_of: Callable[..., StepRecord]
) -> None:
    settings = UcbSettings(ARMS, (1.0, 1.2), prior_steps=1.0, exploration=0.0)
    policy = settings.policy(Situation(12, "none", costs_of()))
    policy.reset()
    # The record's work: 8 layer calls of one row and 10 of four rows, 8 + 13 ms, 4 head reads, 4 ms; plain: 13 ms.
    widths = []
    for emitted in (2, 2, 1, 2):
        widths.append(policy.decide(None).w_max)
        policy.observe(record_of(num_emitted=emitted))
    # 1.2; 3.2 / (1 + 25/13) = 1.095; 5.2 / 4.846 = 1.073; 6.2 / 6.769 = 0.916: plain decoding, 1, is better
    assert widths == [3, 3, 3, 0]
    policy.reset()
    assert policy.decide(None).w_max == 3


def test_an_arm_that_was_seldom_played_is_tried(
    costs_of: Callable[..., CostTable], record_of: Callable[..., StepRecord]
) -> None:
    policy = UcbSettings(ARMS, (1.0, 1.2), prior_steps=1.0, exploration=1.0).policy(Situation(12, "none", costs_of()))
    assert policy.decide(None).w_max == 3
    policy.observe(record_of(num_emitted=2))
    # plain: 1 + sqrt(ln 4 / 1) = 2.177; the other: 1.095 + sqrt(ln 4 / 2) = 1.927
    assert policy.decide(None).w_max == 0


def test_arms_and_constants_that_make_no_bandit_are_refused() -> None:
    with pytest.raises(ValueError, match="arms need a prior speed each, got 2 and 1"):
        UcbSettings(ARMS, (1.0,), 1.0, 0.1)
    with pytest.raises(ValueError, match="must not need a controller's score"):
        UcbSettings((Action(2, 3, 0.5, "learned"),), (1.0,), 1.0, 0.1)
    with pytest.raises(ValueError, match="prior_steps must be > 0"):
        UcbSettings(ARMS, (1.0, 1.0), 0.0, 0.1)
