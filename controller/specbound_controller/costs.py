"""The cost table: what work costs on one machine, in seconds. Counts of work in, seconds out; measures nothing."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

ROW_BUCKETS = (1, 2, 4, 8, 16, 32)
"""Upper bounds of the row buckets of layer calls; the last one also takes every larger call."""

WORK_NAMES = (
    *(f"layer_calls_rows_{rows}" for rows in ROW_BUCKETS),
    "layer_rows_times_context",
    "head_reads",
    "head_rows",
    "exit_tests",
    "decisions",
    "steps",
)
"""Names of the work counts, in the order of a work vector. (W,)"""


def row_bucket(rows: int) -> int:
    """Index of the bucket that a layer call with so many rows falls into."""
    return next((i for i, bound in enumerate(ROW_BUCKETS) if rows <= bound), len(ROW_BUCKETS) - 1)


def work_vector(
    layer_calls_by_rows: Mapping[int, int],
    head_reads_by_rows: Mapping[int, int],
    num_exit_tests: int,
    context_length: int,
    num_decisions: int = 1,
) -> np.ndarray:
    """One step's counts of work in the order of `WORK_NAMES`. (W,) float64"""
    work = np.zeros(len(WORK_NAMES))
    for rows, calls in layer_calls_by_rows.items():
        work[row_bucket(rows)] += calls
        work[len(ROW_BUCKETS)] += rows * calls * context_length / 1000.0
    tail = len(ROW_BUCKETS) + 1
    work[tail] = sum(head_reads_by_rows.values())
    work[tail + 1] = sum(rows * reads for rows, reads in head_reads_by_rows.items())
    work[tail + 2] = num_exit_tests
    work[tail + 3] = num_decisions
    work[tail + 4] = 1.0
    return work


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

    def __post_init__(self) -> None:
        if set(self.coefficients) != set(WORK_NAMES):
            raise ValueError(f"coefficients must be named {WORK_NAMES}, got {tuple(self.coefficients)}")

    def seconds(self, work: np.ndarray) -> np.ndarray:
        """Modelled seconds of work vectors. (..., W) -> (...)"""
        seconds: np.ndarray = work @ np.array([self.coefficients[name] for name in WORK_NAMES])
        return seconds
