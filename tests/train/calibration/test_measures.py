"""Calibration measures and fits against values that are known."""

import numpy as np
import pytest

from specbound_profiling.report.records import Bin
from specbound_train.calibration.measures import (
    equal_bins,
    expected_calibration_error,
    fit_isotonic,
    fit_measures,
    platt,
)


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


def test_isotonic_regression_finds_a_step_and_is_flat_beyond_what_it_saw() -> None:
    scores, outcomes = np.array([0.2, 0.3, 0.7, 0.8]), np.array([False, False, True, True])
    fitted = fit_isotonic(scores, outcomes)
    assert fitted(np.array([0.0, 0.25, 0.75, 1.0])).tolist() == [0.0, 0.0, 1.0, 1.0]
    assert np.all(np.diff(fit_isotonic(scores, outcomes[::-1])(np.linspace(0, 1, 9))) == 0)  # never falling


def test_bins_are_of_equal_count_and_in_the_order_of_the_values() -> None:
    bins = equal_bins(np.array([0.9, 0.1, 0.5, 0.3]), np.array([True, False, True, False]), num_bins=2)
    assert bins == (Bin(pytest.approx(0.2), 0.0, 2), Bin(pytest.approx(0.7), 1.0, 2))
    assert len(equal_bins(np.array([0.5]), np.array([True]))) == 1
