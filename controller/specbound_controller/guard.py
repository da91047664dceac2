"""The never-slower guard: falls back to plain decoding where speculation does not pay, and probes again.

It compares the modelled cost of the work that was done with plain decoding's modelled cost of the same tokens, both
from one cost table. No clock is read, so a run can be replayed.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import overload

import numpy as np

from specbound_controller.by_rows import ByRows
from specbound_controller.costs import CostTable, StepPrices, work_vector
from specbound_controller.records import StepRecord
from specbound_controller.step_batch import StepBatch
from specbound_controller.work import step_seconds


@dataclass(frozen=True, slots=True)
class GuardLimits:
    """How much may be lost before the guard closes, and how long it stays closed.

    The defaults cost text that drafts well next to nothing (docs/history.md), and hold the loss where every draft is
    wrong below 3 % over 512 tokens.
    """

    debt: float = 5.0
    """Seconds that speculation may lose before the first pause, in plain decoding's seconds per token."""
    probe_debt: float = 1.5
    """The same for a probe after a pause."""
    first_pause: int = 16
    """Plain steps of the first pause."""
    growth: int = 2
    """Factor from one pause to the next while probes fail."""
    probe_steps: int = 8
    """Steps without debt after which a probe has succeeded; the next pause is short again."""


class Debt:
    """What speculation has lost, less what it has won back, and never below zero; and the pauses that it leads to."""

    def __init__(self, limits: GuardLimits, longest_pause: float = math.inf) -> None:
        """longest_pause: in steps."""
        self._limits, self._longest = limits, longest_pause
        self.reset()

    def reset(self) -> None:
        """Owes nothing."""
        self._owed = 0.0
        self._allowed = self._limits.debt
        self._pause = self._limits.first_pause
        self._paused_left = 0
        self._clear_steps = 0

    @property
    def is_paused(self) -> bool:
        return self._paused_left > 0

    def pass_by(self) -> None:
        """A step of the pause, if there is one, has been taken."""
        self._paused_left = max(0, self._paused_left - 1)

    def book(self, lost: float, plain: float) -> bool:
        """Books a step. plain: what a plain token costs. Whether a pause begins."""
        self._owed = max(0.0, self._owed + lost)
        self._clear_steps = self._clear_steps + 1 if self._owed == 0.0 else 0
        if self._owed > self._allowed * plain:
            self._close()
            return True
        if self._clear_steps >= self._limits.probe_steps:
            self._allowed, self._pause = self._limits.debt, self._limits.first_pause
        return False

    def _close(self) -> None:
        self._paused_left = self._pause
        self._pause = int(min(self._pause * self._limits.growth, self._longest))
        self._allowed = self._limits.probe_debt
        self._owed = 0.0
        self._clear_steps = 0


class _SharedPrices:
    """What work costs one of so many sequences that share the calls."""

    def __init__(self, alone: CostTable, num_layers: int, num_rows: int) -> None:
        self.costs = costs = alone.shared(num_rows)
        self.steps = StepPrices(costs)
        self.plain_s, with_context = (
            float(costs.seconds(work_vector({1: num_layers}, {1: 1}, 0, context_length, num_decisions=0)))
            for context_length in (0, 1)
        )
        self.plain_per_context_s = with_context - self.plain_s


class NeverSlowerGuard:
    """Keeps the debt of the policy: seconds lost to plain decoding, less those won back; never below zero.

    A step that the policy itself chose to be plain is booked too: its decision and signals are not free.

    In n tokens the modelled loss is at most the first debt, plus one probe's debt for each of about
    `log2(n / first_pause)` pauses, plus one step each.
    """

    def __init__(
        self, costs: CostTable, num_layers: int, is_adaptive: bool = True, limits: GuardLimits | None = None
    ) -> None:
        """is_adaptive: whether each step also pays for a decision and for the full model's signals."""
        self.limits = limits or GuardLimits()
        self._is_adaptive = is_adaptive
        self._debt = Debt(self.limits)
        self._by_rows = ByRows(partial(_SharedPrices, costs, num_layers))
        self.share(1)
        self.num_pauses = 0
        """Pauses so far, over all prompts."""
        self.num_paused_steps = 0
        """Plain steps taken in pauses, over all prompts."""
        self.reset()

    def share(self, num_rows: int) -> None:
        """So many sequences share the calls of the coming steps: prices are those of one of them."""
        found = self._by_rows(num_rows)
        self.costs, self.prices = found.costs, found.steps
        self._plain_s, self._plain_per_context_s = found.plain_s, found.plain_per_context_s

    def reset(self) -> None:
        """Forgets the last prompt; the counts stay."""
        self._debt.reset()

    @property
    def is_paused(self) -> bool:
        """Whether the next step must be plain."""
        return self._debt.is_paused

    @overload
    def plain_seconds(self, context_length: int) -> float: ...
    @overload
    def plain_seconds(self, context_length: np.ndarray) -> np.ndarray: ...
    def plain_seconds(self, context_length: int | np.ndarray) -> float | np.ndarray:
        """Modelled seconds of one token of plain decoding; of arrays too."""
        return self._plain_s + self._plain_per_context_s * context_length

    def observe(self, record: StepRecord) -> None:
        """Books the step that has just ended."""
        self.book(step_seconds(record, self.prices, self._is_adaptive), record)

    def book(self, seconds: float, record: StepRecord) -> None:
        """The same at seconds of one's own."""
        if self._debt.is_paused:
            self._debt.pass_by()
            self.num_paused_steps += 1
            return
        plain_s = self.plain_seconds(record.context_length)
        self.num_pauses += self._debt.book(seconds - plain_s * record.num_emitted, plain_s)


class GuardBatch:
    """The guard's state for many sequences at once, in arrays; the same books as `NeverSlowerGuard` keeps for one."""

    # B sequences, R of them that have taken a step
    def __init__(self, guard: NeverSlowerGuard, num_sequences: int) -> None:
        """guard: whose prices and limits to keep to, and whose counts go on."""
        limits = guard.limits
        self._guard, self._limits = guard, limits
        self._debt_s = np.zeros(num_sequences)
        self._allowed = np.full(num_sequences, limits.debt)
        self._pause = np.full(num_sequences, limits.first_pause)
        self._paused_left = np.zeros(num_sequences, dtype=np.int64)
        self._clear_steps = np.zeros(num_sequences, dtype=np.int64)

    def is_paused(self, rows: np.ndarray) -> np.ndarray:
        """Whether the next step of some sequences must be plain. (R,) -> (R,) bool"""
        paused: np.ndarray = self._paused_left[rows] > 0
        return paused

    def observe(self, rows: np.ndarray, steps: StepBatch) -> None:
        """Books the steps that have just ended."""
        guard, limits = self._guard, self._limits
        paused = self._paused_left[rows] > 0
        self._paused_left[rows[paused]] -= 1
        guard.num_paused_steps += int(paused.sum())
        rows, seconds = rows[~paused], guard.costs.seconds(steps.work[~paused])
        plain_s = guard.plain_seconds(steps.context_length[~paused])
        debt = np.maximum(0.0, self._debt_s[rows] + seconds - plain_s * steps.num_emitted[~paused])
        self._debt_s[rows] = debt
        self._clear_steps[rows] = np.where(debt == 0.0, self._clear_steps[rows] + 1, 0)
        closes = debt > self._allowed[rows] * plain_s
        recovered = rows[~closes & (self._clear_steps[rows] >= limits.probe_steps)]
        self._allowed[recovered], self._pause[recovered] = limits.debt, limits.first_pause
        closed = rows[closes]
        self._paused_left[closed] = self._pause[closed]
        self._pause[closed] *= limits.growth
        self._allowed[closed] = limits.probe_debt
        self._debt_s[closed], self._clear_steps[closed] = 0.0, 0
        guard.num_pauses += len(closed)
