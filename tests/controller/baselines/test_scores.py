"""The exit scores of SVIP and of the logistic rule, and what they charge."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from specbound_controller.baselines.logistic import LogisticScore, LogisticSettings
from specbound_controller.baselines.signal_score import SignalScore
from specbound_controller.baselines.situation import Situation
from specbound_controller.baselines.svip import EntropyBound, SvipSettings
from specbound_controller.costs import CostTable
from specbound_controller.records import ExitSignals
from specbound_controller.score import SIGNAL_NAMES, signal_values

NO_FEATURES = np.empty((1, 0))


def signals_of(**changes: Any) -> ExitSignals:
    values: dict[str, Any] = {
        "exit_layer": 2,
        "draft_index": 0,
        "draft_token": 7,
        "confidence": 0.5,
        "annealed_confidence": 0.5,
        "entropy_nats": 1.0,
        "margin": 2.0,
        "noised_margin": 3.0,
        "draft_probability": 0.25,
    }
    return ExitSignals(**{**values, **changes})


def in_arrays(score: SignalScore, signals: ExitSignals) -> float:
    row = np.array([signal_values(signals)], dtype=np.float32)
    return float(score.probabilities_at(row, np.array([signals.exit_layer]), NO_FEATURES)[0])


@pytest.mark.parametrize(("entropy", "expected"), [(0.0, 1.0), (1.0, 0.75), (4.0, 0.5), (20.0, 0.0)])
def test_entropy_bound_falls_with_the_root_of_the_entropy(entropy: float, expected: float) -> None:
    score, signals = EntropyBound(), signals_of(entropy_nats=entropy)
    assert score(signals, None) == in_arrays(score, signals) == pytest.approx(expected)


def test_svip_drafts_up_to_its_entropy(costs_of: Callable[..., CostTable]) -> None:
    decision = SvipSettings(3, 5, root_entropy=0.5).policy(Situation(12, "none", costs_of())).decide(None)
    assert decision.score is not None and (decision.w_max, decision.combine) == (5, "token")
    cleared = [decision.score(signals_of(entropy_nats=h), None) >= decision.thresholds[3] for h in (0.24, 0.26)]
    assert cleared == [True, False]
    with pytest.raises(ValueError, match="root_entropy must be in"):
        SvipSettings(3, 5, root_entropy=4.0)


def test_each_draft_position_has_its_own_regression() -> None:
    weights = ((1.0, 0.0, 0.5, 0.0, 0.0, -1.0), (0.0, 1.0, 0.0, 1.0, 0.0, math.log(3.0) - 4.0))
    score = LogisticScore(weights, (1.0, 0.8))
    # position 0: log-odds of 0.5 are 0, half a margin of 2 is 1, less 1: one half
    # position 1: entropy 1 and noised margin 3, less 4, leave log 3: 3 in 4, times 0.8
    for index, expected in ((0, 0.5), (1, 0.6)):
        signals = signals_of(draft_index=index)
        assert score(signals, None) == pytest.approx(expected) == in_arrays(score, signals)
    assert SIGNAL_NAMES[: len(weights[0])][-1] == "draft_index"  # what chooses the row stands right after its inputs


def constant(*probabilities: float) -> tuple[tuple[float, ...], ...]:
    """Regressions that say the same whatever they see."""
    return tuple((0.0,) * 5 + (math.log(p / (1 - p)),) for p in probabilities)


def test_a_token_is_drafted_while_its_survival_is_worth_its_price(costs_of: Callable[..., CostTable]) -> None:
    # 12 layers of 1 ms, 0.1 more for each further row; a head read 1 ms. Plain: 13 ms. At exit 2, in ms:
    # 0 drafted, 1 read: 2 + 10 + 2 = 14. 1 drafted, 2 read: 4 + 10 * 1.1 + 3 = 18. 2 drafted, 2 read: 6 + 12 + 3 = 21.
    situation = Situation(12, "none", costs_of(row_slope=0.1, head=1.0))
    settings = LogisticSettings(2, constant(0.5, 0.5), speedup=1.3, context_length=0)
    assert settings.prices(situation) * 1000 == pytest.approx([4.0, 3.0])
    decision = settings.policy(situation).decide(None)
    # 1.3 times plain decoding is 0.1 tokens per ms: the first token must be worth 0.4, both together 0.3
    assert decision.thresholds[2] == pytest.approx(0.4) and decision.combine == "product"
    for first, second, drafted in ((0.39, 0.99, 0), (0.41, 0.72, 1), (0.41, 0.74, 2), (0.9, 0.32, 1), (0.9, 0.34, 2)):
        score = LogisticSettings(2, constant(first, second), 1.3, 0).policy(situation).decide(None).score
        assert score is not None
        values = np.cumprod([score(signals_of(draft_index=index), None) for index in range(2)])
        count = next((i for i, value in enumerate(values) if value < decision.thresholds[2]), 2)
        assert count == drafted, (first, second)


def test_where_even_a_sure_token_does_not_pay_nothing_is_drafted(costs_of: Callable[..., CostTable]) -> None:
    situation = Situation(12, "none", costs_of(row_slope=0.1, head=1.0))
    assert LogisticSettings(2, constant(0.9), 3.2, 0).policy(situation).decide(None).w_max == 1
    assert LogisticSettings(2, constant(0.9, 0.9), 3.3, 0).policy(situation).decide(None).w_max == 0  # 3.3 / 13 * 4 > 1


def test_weights_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="weights must be rows of 6"):
        LogisticSettings(2, ((1.0, 2.0),), 1.3, 0)
    with pytest.raises(ValueError, match="speedup must be > 0"):
        LogisticSettings(2, constant(0.5), 0.0, 0)
