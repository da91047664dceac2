"""The cost fit on made-up steps with known prices."""

import numpy as np
import pytest

from specbound_controller.costs import ROW_KNOTS, WORK_NAMES, row_shares
from specbound_profiling.costs.fit import fit_costs
from specbound_profiling.replay.oracle import fixed_draft_work

CALLS = [1.0, 1.1, 1.15, 1.3, 1.3, 1.7, 2.2, 2.5, 3.3, 4.0, 5.5, 7.0]
PRICES = np.array([*CALLS, 0.2, 0.6, 0.05, 0.4, 0.1, 0.3, 0.8]) * 1e-3


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
    of_8, of_9, of_32 = (table.coefficients[f"layer_calls_rows_{rows}"] for rows in (8, 9, 32))
    assert of_9 == pytest.approx(of_8 * 9 / 8) and of_32 == pytest.approx(4 * of_8)


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
    def shares(rows: int) -> dict[int, float]:
        found = row_shares(rows)
        return {knot: float(share) for knot, share in zip(ROW_KNOTS, found, strict=True) if share}

    assert shares(1) == {1: 1.0} and shares(3) == {3: 1.0} and shares(64) == shares(99) == {64: 1.0}
    assert shares(6) == pytest.approx({5: 2 / 3, 8: 1 / 3}) and shares(10) == pytest.approx({9: 6 / 7, 16: 1 / 7})
    np.testing.assert_allclose(row_shares(np.arange(1, 65)).sum(axis=1), 1.0)
    np.testing.assert_array_equal(row_shares(np.array([3, 6])), [row_shares(3), row_shares(6)])


def test_a_block_that_begins_is_dear_and_its_other_rows_are_free() -> None:
    """What products of a few rows cost on a CPU: the tables must not blur it."""
    rng = np.random.default_rng(5)
    at = [ROW_KNOTS.index(rows) for rows in (1, 2, 3, 4, 5, 8, 9, 16)]
    prices = PRICES.copy()
    prices[at] = np.array([0.65, 0.65, 0.67, 0.83, 0.83, 0.83, 1.15, 1.15]) * 1e-3
    work = steps(rng, 400)
    table = fit_costs(work, work @ prices * rng.lognormal(0, 0.03, len(work)), "none", "here")
    of_rows = np.array([fixed_draft_work(1, rows - 1, 16, 100) for rows in (3, 4, 8, 9, 16)])
    np.testing.assert_allclose(table.seconds(of_rows), of_rows @ prices, rtol=0.03)
