"""The cost fit on made-up steps with known prices."""

import numpy as np
import pytest

from specbound_controller.costs import ROW_KNOTS, WORK_NAMES, row_shares
from specbound_profiling.costs.fit import fit_costs
from specbound_profiling.replay.oracle import fixed_draft_work

PRICES = np.array([1.0, 1.1, 1.3, 1.7, 2.5, 4.0, 7.0, 0.2, 0.6, 0.05, 0.4, 0.1, 0.3, 0.8]) * 1e-3


def steps(rng: np.random.Generator, count: int, widest: int = 31) -> np.ndarray:
    rows = []
    for _ in range(count):
        width, exit_layer = int(rng.integers(0, widest + 1)), int(rng.integers(1, 8))
        work = fixed_draft_work(exit_layer, width, 16, int(rng.integers(10, 900)))
        work[WORK_NAMES.index("exit_tests")] = rng.integers(0, width + 1)
        work[WORK_NAMES.index("decisions")] = rng.integers(0, 2)
        rows.append(work)
    return np.array(rows)


def test_known_prices_predict_new_steps() -> None:
    rng = np.random.default_rng(0)
    work = steps(rng, 400)
    table = fit_costs(work, work @ PRICES, "none", "here")
    new = steps(rng, 100)
    np.testing.assert_allclose(table.seconds(new), new @ PRICES, rtol=1e-3)
    assert table.held_out_error < 1e-3
    assert table.num_steps == 400 and set(table.coefficients) == set(WORK_NAMES)


def test_noise_and_interruptions_hardly_move_the_prices() -> None:
    rng = np.random.default_rng(1)
    work = steps(rng, 600)
    seconds = work @ PRICES * rng.lognormal(0, 0.05, 600)
    seconds[rng.random(600) < 0.05] += 0.2
    table = fit_costs(work, seconds, "none", "here")
    new = steps(rng, 100)
    error = np.abs(table.seconds(new) / (new @ PRICES) - 1)
    assert np.median(error) < 0.03
    assert 0.01 < table.held_out_error < 0.1


def test_calls_with_more_rows_are_never_cheaper_and_nothing_is_free() -> None:
    rng = np.random.default_rng(2)
    work = steps(rng, 300, widest=6)  # no call with more than 8 rows
    table = fit_costs(work, work @ PRICES * rng.lognormal(0, 0.3, 300), "none", "here")
    prices = [table.coefficients[f"layer_calls_rows_{rows}"] for rows in ROW_KNOTS]
    assert prices == sorted(prices) and prices[0] > 0
    assert prices[4] == pytest.approx(2 * prices[3]) and prices[5] == pytest.approx(4 * prices[3])


def test_prices_timed_alone_are_kept_and_the_rest_is_fitted() -> None:
    rng = np.random.default_rng(3)
    work = steps(rng, 300)
    table = fit_costs(work, work @ PRICES, "none", "here", {"exit_tests": 4e-4, "decisions": 3e-4})
    assert table.coefficients["exit_tests"] == 4e-4 and table.coefficients["decisions"] == 3e-4
    np.testing.assert_allclose(table.seconds(work), work @ PRICES, rtol=1e-3)


def test_noise_does_not_make_steps_seem_cheaper() -> None:
    rng = np.random.default_rng(4)
    work = steps(rng, 2000, widest=8)
    seconds = work @ PRICES * (1.0 + rng.uniform(-0.3, 0.3, len(work)))
    table = fit_costs(work, seconds, "none", "here")
    assert table.seconds(work).sum() == pytest.approx(seconds.sum(), rel=0.02)


def test_calls_between_two_knots_are_shared_between_them() -> None:
    np.testing.assert_array_equal(
        row_shares(np.array([1, 3, 6, 8, 28, 32, 48, 64, 99])),
        [
            [1, 0, 0, 0, 0, 0, 0],
            [0, 0.5, 0.5, 0, 0, 0, 0],
            [0, 0, 0.5, 0.5, 0, 0, 0],
            [0, 0, 0, 1, 0, 0, 0],
            [0, 0, 0, 0, 0.25, 0.75, 0],
            [0, 0, 0, 0, 0, 1, 0],
            [0, 0, 0, 0, 0, 0.5, 0.5],
            [0, 0, 0, 0, 0, 0, 1],
            [0, 0, 0, 0, 0, 0, 1],
        ],
    )
