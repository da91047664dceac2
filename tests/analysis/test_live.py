"""What a comparison with live decoding says of the speed of the machine."""

import pytest

from specbound.analysis.live import speed_line
from specbound_controller.costs import WORK_NAMES, CostTable
from specbound_profiling.costs.machine import machine_fingerprint


def table(machine: str, probe_s: float | None) -> CostTable:
    return CostTable(dict.fromkeys(WORK_NAMES, 1e-3), "none", machine, 0.0, 30, probe_s=probe_s)


@pytest.mark.parametrize(
    ("probe_s", "words"),
    [(0.0023, "is 15% slower than when it was priced"), (0.0016, "is 20% faster than"), (0.002, "is 0% slower than")],
)
def test_speed_is_held_against_that_of_the_table(probe_s: float, words: str) -> None:
    assert words in speed_line(table(machine_fingerprint("cpu"), 0.002), "cpu", probe_s)


def test_tables_of_other_machines_and_of_unknown_speed_are_named() -> None:
    assert "another machine's (a toaster)" in speed_line(table("a toaster", 0.002), "cpu", 0.002)
    assert "does not say how fast" in speed_line(table(machine_fingerprint("cpu"), None), "cpu", 0.002)
