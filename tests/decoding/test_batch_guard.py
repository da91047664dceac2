"""A batch drafts as long as the clock says that it pays."""

import pytest

from specbound.decoding.batch_guard import LONGEST_PAUSE, STALE_STEPS, BatchGuard


def run(guard: BatchGuard, steps: int, num_rows: int, drafted_s: float, num_tokens: int) -> list[bool]:
    """Which steps were plain, where a plain one takes a second."""
    found = []
    for _ in range(steps):
        found.append(guard.must_be_plain(num_rows))
        if found[-1]:
            guard.observe(1.0, num_rows, 0, num_rows)
        else:
            guard.observe(drafted_s, num_rows, 3, num_tokens)
    return found


def test_drafts_that_pay_go_on_but_for_the_steps_that_measure_plain_ones() -> None:
    found = run(BatchGuard(), 400, 4, 1.2, 7)
    assert found[:2] == [True, True] and sum(found) <= 2 + 400 / STALE_STEPS


def test_drafts_that_do_not_pay_lose_less_than_a_tenth() -> None:
    found = run(BatchGuard(), 600, 4, 1.5, 4)
    assert sum(not each for each in found) * 0.5 < 0.1 * len(found)
    assert not all(found[-2 * LONGEST_PAUSE :])  # other texts may have come


def test_each_number_of_rows_is_measured_by_itself_and_one_row_never() -> None:
    guard = BatchGuard()
    run(guard, 10, 4, 1.2, 8)
    assert guard.must_be_plain(3) and not guard.must_be_plain(4)
    assert not any(run(guard, 50, 1, 9.0, 1))


@pytest.mark.parametrize(("num_rows", "is_plain"), [(2, True), (8, True), (1, False)])
def test_a_pause_holds_for_every_number_of_rows(num_rows: int, is_plain: bool) -> None:
    guard = BatchGuard()
    run(guard, 2, 2, 1.0, 2)
    run(guard, 2, 8, 1.0, 8)
    while not guard.must_be_plain(8):
        guard.observe(9.0, 8, 3, 8)
    assert guard.must_be_plain(num_rows) == is_plain
