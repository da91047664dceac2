"""Calibration measures and fits against values that are known."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from specbound_profiling.trace import PromptTrace
from specbound_train.calibration import expected_calibration_error, fit_alpha, fit_measures, platt


def test_platt_finds_the_slope_and_offset_that_made_the_outcomes() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=20_000)
    outcomes = rng.random(20_000) < 1 / (1 + np.exp(-(0.5 * logits + 1.0)))
    assert platt(logits, outcomes) == pytest.approx((0.5, 1.0), abs=0.06)


@pytest.mark.parametrize("outcome", [True, False])
def test_few_rows_of_one_outcome_stay_near_no_calibration(outcome: bool) -> None:
    slope, offset = platt(np.array([0.3, -0.2, 1.0]), np.array([outcome] * 3))
    assert slope == pytest.approx(1.0, abs=0.2) and abs(offset) < 0.5
    assert platt(np.array([]), np.array([])) == (1.0, 0.0)


def test_calibration_never_turns_the_order_around() -> None:
    logits = np.linspace(-3, 3, 1000)
    assert platt(logits, logits < 0)[0] > 0


def test_calibration_error_by_hand() -> None:
    assert expected_calibration_error(np.array([0.2] * 5 + [0.9] * 5), np.array([0, 0, 0, 0, 1] + [1] * 5), 2) == (
        pytest.approx(0.05)
    )


def test_measures_of_a_perfect_and_a_useless_score() -> None:
    outcomes = np.array([True, False] * 50)
    fit = fit_measures(3, outcomes.astype(float), np.full(100, 0.5), outcomes)
    assert (fit.ece, fit.brier, fit.auroc) == (0.0, 0.0, 1.0)
    assert (fit.confidence_brier, fit.confidence_auroc) == (0.25, 0.5)
    assert np.isnan(fit_measures(3, np.ones(4), np.ones(4), np.ones(4, bool)).auroc)


def test_alpha_is_zero_for_calibrated_confidence_and_grows_with_overconfidence(
    traces_of: Callable[..., list[PromptTrace]],
) -> None:
    rng = np.random.default_rng(0)
    traces = []
    for trace in traces_of(0, 20, 60):
        temperatures = np.array(trace.temperatures)
        true = np.clip(rng.random(trace.confidence.shape), 0.05, 0.95)
        sharp = 1 / (1 + np.exp(-np.log(true / (1 - true)) * 1.4))
        cooled = 1 / (1 + np.exp(-np.log(sharp / (1 - sharp))[..., None] / temperatures))
        accepted = rng.random(true.shape) < true
        traces.append(replace(trace, is_accepted=accepted, confidence_at=cooled.astype(np.float32)))
    # the temperature that undoes the sharpening is 1.4 at every exit
    assert fit_alpha(traces, 12) == pytest.approx(0.4 / (1 - 3 / 12), abs=0.1)
    fair = [replace(trace, is_accepted=rng.random(trace.confidence.shape) < trace.confidence_at[..., 0])
            for trace in traces]  # fmt: skip
    assert fit_alpha(fair, 12) == pytest.approx(0.0, abs=0.06)
