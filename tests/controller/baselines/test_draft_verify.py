"""Draft & Verify's threshold, move by move."""

from collections.abc import Callable

import pytest

from specbound_controller.baselines.draft_verify import DraftVerifySettings
from specbound_controller.baselines.situation import Situation
from specbound_controller.costs import CostTable
from specbound_controller.records import StepRecord


def test_threshold_follows_measured_acceptance(
    costs_of: Callable[..., CostTable], record_of: Callable[..., StepRecord]
) -> None:
    settings = DraftVerifySettings(exit_layer=3, width=4, start=0.5, target=0.9, step=0.1)
    policy = settings.policy(Situation(12, "none", costs_of()))
    policy.reset()
    thresholds = []
    for drafted, accepted in ((4, 4), (4, 4), (4, 4), (4, 4), (2, 2), (2, 0), (0, 0), (0, 0), (0, 0)):
        decision = policy.decide(None)
        thresholds.append(decision.thresholds[3])
        policy.observe(record_of(num_drafted=drafted, num_accepted=accepted))
    # A move is (1 - 0.9) * 0.1 = 0.01. The mean of the rates: 0.5, 0.75, 0.875 < 0.9: up each time; 0.9375, the draft
    # full: stays; 0.96875, the draft cut: down; 0.484375: up; nothing drafted counts as right: 0.742, 0.871: up.
    assert thresholds == pytest.approx([0.5, 0.51, 0.52, 0.53, 0.53, 0.52, 0.53, 0.54, 0.55])
    assert policy.decide(None).thresholds[3] == pytest.approx(0.54)  # 0.9355, nothing drafted: down
    assert (decision.w_max, decision.combine) == (4, "token")


def test_threshold_stays_within_reach_of_a_confidence(
    costs_of: Callable[..., CostTable], record_of: Callable[..., StepRecord]
) -> None:
    policy = DraftVerifySettings(2, 4, start=0.95, target=0.9, step=0.4).policy(Situation(12, "none", costs_of()))
    for _ in range(5):
        policy.observe(record_of(num_drafted=4, num_accepted=0))
    assert policy.decide(None).thresholds[2] == pytest.approx(0.99)  # one move of 0.04; two would pass 1
    low = DraftVerifySettings(2, 4, start=0.05, target=0.0, step=0.4).policy(Situation(12, "none", costs_of()))
    for _ in range(5):
        low.observe(record_of(num_drafted=2, num_accepted=2))
    assert low.decide(None).thresholds[2] == pytest.approx(0.01) and low.decide(None).score is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"start": 0.0}, "start must be in"), ({"target": 1.1}, "target must be in"), ({"step": 0.0}, "step must be in")],
)
def test_constants_out_of_range_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DraftVerifySettings(**{"exit_layer": 2, "width": 4, "start": 0.5, "target": 0.9, **changes})  # type: ignore[arg-type]
