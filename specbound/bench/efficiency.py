"""How much of our decoder's time is the model's own: layer and head calls at their measured price, and all the rest."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from specbound_controller.costs import ROW_KNOTS, WORK_NAMES, CostTable
from specbound_controller.records import StepRecord
from specbound_controller.work import record_work

PARTS = {
    "layers": tuple(name for name in WORK_NAMES if name.startswith("layer_calls_rows_")),
    "attention to the context": ("layer_rows_times_context",),
    "head": ("head_reads", "head_rows"),
    "exit tests": ("exit_tests", "learned_scores"),
    "decisions": ("decisions",),
    "loop, by the table": ("steps",),
}
"""Part of a step -> the work that it is made of."""
MODEL_PARTS = ("layers", "attention to the context", "head")
"""Parts that the model itself takes."""
REST = "not in the table"
"""Measured seconds less those that the table says."""

assert len(PARTS["layers"]) == len(ROW_KNOTS)


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Where the seconds of one method's steps go."""

    num_steps: int
    measured_s: float
    """Seconds of these steps by the clock of the cost table."""
    parts_s: dict[str, float]
    """Part -> seconds at the table's prices, and what is left of the measured ones (below 0 where the table says
    more)."""

    @property
    def ideal_s(self) -> float:
        """Layer and head calls alone."""
        return sum(self.parts_s[name] for name in MODEL_PARTS)

    @property
    def efficiency(self) -> float:
        """Ideal over measured seconds."""
        return self.ideal_s / self.measured_s

    @property
    def overhead_share(self) -> float:
        """Share of the measured seconds that are no layer or head call."""
        return 1.0 - self.efficiency


def breakdown(
    records: Iterable[StepRecord], measured_s: float, costs: CostTable, is_adaptive: bool
) -> Breakdown | None:
    """The parts of the very same steps; None where there was none.

    Args:
        records: Steps of all prompts.
        measured_s: What they took together.
        is_adaptive: Whether the policy reads features.
    """
    work = [record_work(record, is_adaptive) for record in records]
    if not work or measured_s <= 0:
        return None
    seconds = dict(zip(WORK_NAMES, np.sum(work, axis=0) * _prices(costs), strict=True))
    parts = {part: float(sum(seconds[name] for name in names)) for part, names in PARTS.items()}
    return Breakdown(len(work), measured_s, {**parts, REST: measured_s - sum(parts.values())})


def _prices(costs: CostTable) -> np.ndarray:
    return np.array([costs.coefficients[name] for name in WORK_NAMES])


def per_step_ms(found: Breakdown, parts: Sequence[str]) -> list[float]:
    """Milliseconds of some parts of an average step; nothing below 0."""
    return [max(0.0, found.parts_s[part]) / found.num_steps * 1e3 for part in parts]
