"""The cost table: what work costs on one machine, in seconds. Counts of work in, seconds out; measures nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

ROW_KNOTS = (1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 64)
"""Rows of the layer calls that have a price; a call with rows in between is shared between its two neighbours. Products
take rows in blocks and graphs in buckets, so that one row more than a power of two may cost much more, and the next
ones nothing."""

WORK_NAMES = (
    *(f"layer_calls_rows_{rows}" for rows in ROW_KNOTS),
    "layer_rows_times_context",
    "head_reads",
    "head_rows",
    "exit_tests",
    "learned_scores",
    "decisions",
    "steps",
)
"""Names of the work counts, in the order of a work vector. (W,)"""


def row_shares(rows: np.ndarray | int) -> np.ndarray:
    """What a layer call with so many rows counts at each knot, 1 in all; above the last knot it counts there. (..., K)

    Linear interpolation: with six rows a call counts two thirds as one with five and one third as one with eight.
    """
    knots = np.array(ROW_KNOTS, dtype=float)
    place = np.interp(rows, knots, np.arange(len(knots)))
    return np.maximum(0.0, 1.0 - np.abs(np.asarray(place)[..., None] - np.arange(len(knots))))


_SHARES = row_shares(np.arange(ROW_KNOTS[-1] + 1))


def work_vector(
    layer_calls_by_rows: Mapping[int, int],
    head_reads_by_rows: Mapping[int, int],
    num_exit_tests: int,
    context_length: int,
    num_decisions: int = 1,
    num_learned_scores: int = 0,
) -> np.ndarray:
    """One step's counts of work in the order of `WORK_NAMES`. (W,) float64

    Neither a layer's first call within a step (dearer, its weights are not in the processor's cache) nor what every
    draft token costs on the way has a count of its own: every step calls every layer first once, so that is part of
    the price of `steps`; and `head_rows` less `head_reads` are the draft tokens.
    """
    work = np.zeros(len(WORK_NAMES))
    for rows, calls in layer_calls_by_rows.items():
        work[: len(ROW_KNOTS)] += calls * _SHARES[min(rows, ROW_KNOTS[-1])]
        work[len(ROW_KNOTS)] += rows * calls * context_length / 1000.0
    tail = len(ROW_KNOTS) + 1
    work[tail] = sum(head_reads_by_rows.values())
    work[tail + 1] = sum(rows * reads for rows, reads in head_reads_by_rows.items())
    work[tail + 2] = num_exit_tests
    work[tail + 3] = num_learned_scores
    work[tail + 4] = num_decisions
    work[tail + 5] = 1.0
    return work


def with_all_calls(coefficients: Mapping[str, float]) -> dict[str, float]:
    """Coefficients of a table that was measured when fewer calls had prices: the lines between those that it has, and
    beyond the widest of them the line of the last two, which never falls."""
    names = WORK_NAMES[: len(ROW_KNOTS)]
    known = [knot for knot, name in enumerate(names) if name in coefficients]
    found = dict(coefficients)
    if len(known) < 2:
        return found
    rows = [ROW_KNOTS[knot] for knot in known]
    seconds = [coefficients[names[knot]] for knot in known]
    slope = max(0.0, seconds[-1] - seconds[-2]) / (rows[-1] - rows[-2])
    for knot, name in enumerate(names):
        if name not in found:
            beyond = max(0, ROW_KNOTS[knot] - rows[-1])
            found[name] = float(np.interp(ROW_KNOTS[knot], rows, seconds)) + slope * beyond
    return found


@dataclass(frozen=True, slots=True)
class CostTable:
    """Seconds per unit of work on one machine, for one model at one compression level."""

    coefficients: Mapping[str, float]
    """Work name -> seconds; every name of `WORK_NAMES`."""
    compression: str
    """Compression level it was measured at."""
    machine: str
    """Fingerprint of the machine and its thread count."""
    held_out_error: float
    """Median relative error of predicted step seconds on steps left out of the fit."""
    num_steps: int
    """Measured steps."""
    exactness: str = "token"
    """Kernels that the steps ran on: `token` (the model's own) or `bitwise` (row-stable)."""
    probe_s: float | None = None
    """Speed of the machine that the seconds hold for: what a fixed piece of the model took there (the stopwatch's
    probe); None where it is not known."""

    def __post_init__(self) -> None:
        if set(self.coefficients) != set(WORK_NAMES):
            raise ValueError(f"coefficients must be named {WORK_NAMES}, got {tuple(self.coefficients)}")

    def slowdown(self, probe_s: float) -> float | None:
        """How much slower a machine is on which the probe takes so long, 0.1 for 10 %; None where it is not known."""
        return None if self.probe_s is None else probe_s / self.probe_s - 1.0

    def shared(self, num_rows: int) -> "CostTable":
        """What work costs one of so many sequences whose steps run in the same calls.

        A call on n of its rows is a call on `num_rows * n`, of which it pays its part; so it does of the fixed costs of
        heads and steps. Beyond the last knot the line of the last two goes on.
        """
        if num_rows == 1:
            return self
        found, names = dict(self.coefficients), WORK_NAMES[: len(ROW_KNOTS)]
        before, last = (self.coefficients[name] for name in names[-2:])
        per_row = max(0.0, last - before) / (ROW_KNOTS[-1] - ROW_KNOTS[-2])
        for name, rows in zip(names, ROW_KNOTS, strict=True):
            together = num_rows * rows
            shares = row_shares(together) @ np.array([self.coefficients[each] for each in names])
            found[name] = (float(shares) + per_row * max(0, together - ROW_KNOTS[-1])) / num_rows
        for name in ("head_reads", "steps"):
            found[name] /= num_rows
        return replace(self, coefficients=found)

    def seconds(self, work: np.ndarray) -> np.ndarray:
        """Modelled seconds of work vectors. (..., W) -> (...)"""
        seconds: np.ndarray = work @ np.array([self.coefficients[name] for name in WORK_NAMES])
        return seconds


class StepPrices:
    """A cost table for one step after another: `seconds(work_vector(...))` in plain arithmetic, which is faster."""

    def __init__(self, costs: CostTable) -> None:
        self._price = dict(costs.coefficients)
        by_knot = np.array([costs.coefficients[name] for name in WORK_NAMES[: len(ROW_KNOTS)]])
        self._call_s: list[float] = (_SHARES @ by_knot).tolist()

    def seconds(
        self,
        layer_calls_by_rows: Mapping[int, int],
        head_reads_by_rows: Mapping[int, int],
        num_exit_tests: int,
        context_length: int,
        num_decisions: int = 1,
        num_learned_scores: int = 0,
    ) -> float:
        """Modelled seconds of one step; arguments as of `work_vector`."""
        price = self._price
        seconds, row_calls = price["steps"], 0
        for rows, calls in layer_calls_by_rows.items():
            seconds += calls * self._call_s[min(rows, ROW_KNOTS[-1])]
            row_calls += rows * calls
        seconds += row_calls * context_length / 1000.0 * price["layer_rows_times_context"]
        for rows, reads in head_reads_by_rows.items():
            seconds += reads * (price["head_reads"] + rows * price["head_rows"])
        seconds += num_exit_tests * price["exit_tests"] + num_decisions * price["decisions"]
        return seconds + num_learned_scores * price["learned_scores"]
