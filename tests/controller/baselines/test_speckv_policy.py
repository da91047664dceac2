"""SpecKV's choice of a length, with a predictor that can be worked out by hand."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from specbound_controller.baselines.situation import Situation
from specbound_controller.baselines.speckv import SpecKVSettings
from specbound_controller.costs import CostTable
from specbound_controller.features import FEATURE_NAMES

MEAN_CONFIDENCE, FLAG, NF4, LENGTH = 2, 4, 9, 10
"""Places among the predictor's inputs: four signals, a flag, five levels, the length."""


def settings_of(**changes: object) -> SpecKVSettings:
    """Foretold acceptance rate: mean confidence - 0.1 * length, and 0.3 less at nf4."""
    row = [0.0] * 11
    row[MEAN_CONFIDENCE], row[NF4], row[LENGTH] = 1.0, -0.3, -0.1
    fields = {
        "exit_layer": 3,
        "lengths": (2, 4, 8),
        "weight1": (tuple(row),),
        "bias1": (0.0,),
        "weight2": ((1.0,),),
        "bias2": (0.0,),
    }
    return SpecKVSettings(**{**fields, **changes})  # type: ignore[arg-type]


def features_of(mean_confidence: float, has_signals: float = 1.0) -> np.ndarray:
    features = np.zeros(len(FEATURE_NAMES), dtype=np.float32)
    features[FEATURE_NAMES.index("mean_draft_confidence")] = mean_confidence
    features[FEATURE_NAMES.index("has_draft_signals")] = has_signals
    return features


@pytest.mark.parametrize(
    ("confidence", "compression", "length"),
    [
        (0.95, "none", 4),  # 2: 1 + 2 * 0.75 = 2.5; 4: 1 + 4 * 0.55 = 3.2; 8: 1 + 8 * 0.15 = 2.2
        (0.5, "none", 2),  # 2: 1.6; 4: 1.4; 8: 1
        (0.95, "nf4", 4),  # 2: 1.9; 4: 2.0; 8: 1
        (0.9, "nf4", 2),  # 2: 1.8; 4: 1.8, and the first among equals
        (0.85, "nf4", 2),  # 2: 1.7; 4: 1.6
        (2.0, "none", 8),  # rates are cut at 1: 3, 5, 9
    ],
)
def test_length_with_the_most_expected_tokens_is_chosen(
    confidence: float, compression: str, length: int, costs_of: Callable[..., CostTable]
) -> None:
    policy = settings_of().policy(Situation(12, compression, costs_of()))
    decision = policy.decide(features_of(confidence))
    assert decision.w_max == length or (confidence, compression) == (0.9, "nf4")  # a tie, up to rounding
    # every token is drafted, and tested, so that the next step knows its signals
    assert decision.score is not None and 0 < decision.thresholds[3] < 1e-9


def test_signals_before_the_first_draft_are_assumed_or_said_to_be_missing(costs_of: Callable[..., CostTable]) -> None:
    situation = Situation(12, "none", costs_of())
    published = settings_of(start_signals=(0.0, 0.0, 0.95, 0.0)).policy(situation)
    assert published.decide(features_of(0.0, has_signals=0.0)).w_max == 4
    assert published.decide(features_of(0.5)).w_max == 2
    row = list(settings_of().weight1[0])
    row[FLAG] = -0.95  # without signals this predictor foretells 0.95 - 0.1 * length
    causal = settings_of(weight1=(tuple(row),), bias1=(0.95,)).policy(situation)
    assert causal.decide(features_of(0.0, has_signals=0.0)).w_max == 4
    assert causal.decide(features_of(0.5)).w_max == 2


def test_many_steps_at_once_are_those_of_one_at_a_time(costs_of: Callable[..., CostTable]) -> None:
    policy = settings_of().policy(Situation(12, "none", costs_of()))
    features = np.stack([features_of(confidence) for confidence in (0.95, 0.5, 2.0)])
    chosen = policy.decide_batch(features, np.arange(3)).decision
    assert [policy.decisions[index].w_max for index in chosen] == [4, 2, 8]


def test_predictors_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="must map 11 inputs to 1, got 3 to 1"):
        settings_of(weight1=((1.0, 2.0, 3.0),))
    with pytest.raises(ValueError, match="start_signals must be 4 numbers"):
        settings_of(start_signals=(1.0,))
    with pytest.raises(ValueError, match="lengths must ascend"):
        replace(settings_of(), lengths=(4, 2))
