"""Draft lengths that follow what was accepted, against sequences worked out by hand."""

from collections.abc import Callable

import numpy as np
import pytest

from specbound_controller.baselines.lengths import GammaTuneSettings, HeuristicSettings
from specbound_controller.baselines.situation import Situation
from specbound_controller.costs import CostTable
from specbound_controller.records import StepRecord

RecordOf = Callable[..., StepRecord]


@pytest.fixture
def situation(costs_of: Callable[..., CostTable]) -> Situation:
    return Situation(12, "none", costs_of())


def test_heuristic_adds_two_after_a_full_draft_and_takes_one_otherwise(
    situation: Situation, record_of: RecordOf
) -> None:
    policy = HeuristicSettings(exit_layer=3, start=2, longest=6).policy(situation)
    policy.reset()
    lengths = []
    for accepted in (2, 1, 3, 5, 6, 0, 0):
        decision = policy.decide(None)
        lengths.append(decision.w_max)
        policy.observe(record_of(num_drafted=decision.w_max, num_accepted=accepted))
    # 2 full: 4. 1 of 4: 3. 3 full: 5. 5 full: 7, at most 6. 6 full: 6. 0 of 6: 5.
    assert lengths == [2, 4, 3, 5, 6, 6, 5]
    assert policy.decide(None).w_max == 4 and decision.exits() == ((3, 0.0),)


def test_heuristic_never_drafts_nothing_and_forgets_at_a_new_prompt(situation: Situation, record_of: RecordOf) -> None:
    policy = HeuristicSettings(exit_layer=3, start=2, longest=6).policy(situation)
    for expected in (2, 1, 1):
        assert policy.decide(None).w_max == expected
        policy.observe(record_of(num_drafted=expected, num_accepted=0))
    policy.reset()
    assert policy.decide(None).w_max == 2


def test_a_draft_that_the_limit_cut_short_is_not_a_full_one(situation: Situation, record_of: RecordOf) -> None:
    policy = HeuristicSettings(exit_layer=3, start=4, longest=8).policy(situation)
    policy.observe(record_of(num_drafted=2, num_accepted=2))
    assert policy.decide(None).w_max == 3


def test_gammatune_averages_accepted_lengths_and_stretches_full_drafts(
    situation: Situation, record_of: RecordOf
) -> None:
    policy = GammaTuneSettings(exit_layer=3, start=3, longest=4, rate=0.5, stretch=2.0).policy(situation)
    policy.reset()
    lengths = []
    for accepted in (1, 2, 2, 3, 4, 0, 0, 0):
        decision = policy.decide(None)
        lengths.append(decision.w_max)
        policy.observe(record_of(num_drafted=decision.w_max, num_accepted=accepted))
    # 3; 1 of 3: (3+1)/2 = 2; 2 full, seen as 4: 3; 2 of 3: 2.5, drafts 3; 3 full, seen as 5: 3.75, drafts 4;
    # 4 full, seen as 6: 4.875, at most 4; 0 of 4: 2; 0 of 2: 1
    assert lengths == [3, 2, 3, 3, 4, 4, 2, 1]
    assert policy.decide(None).w_max == 1


def test_sequences_of_a_batch_do_not_see_each_other(situation: Situation) -> None:
    from specbound_controller.baselines.array_policy import Taken

    policy = HeuristicSettings(exit_layer=3, start=2, longest=6).policy(situation)
    policy.reset_batch(3)
    rows, none = np.array([0, 2]), np.zeros(2)
    policy.learn(rows, Taken(np.array([2, 2]), np.array([2, 0]), none, none, none[:, None]))
    chosen = policy.decide_batch(None, np.arange(3)).decision
    assert [policy.decisions[index].w_max for index in chosen] == [4, 2, 1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HeuristicSettings(0, 1, 2), "exit_layer must be at least 1"),
        (lambda: HeuristicSettings(1, 1, 65), r"length must be in \[1, 64\], got 65"),
        (lambda: GammaTuneSettings(1, 1, 4, 1.5, 1.0), r"rate must be in \[0, 1\], got 1.5"),
        (lambda: GammaTuneSettings(1, 1, 4, 0.5, -1.0), "stretch must be >= 0"),
    ],
)
def test_constants_out_of_range_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
