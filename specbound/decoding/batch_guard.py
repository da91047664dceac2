"""Whether a running batch drafts: the seconds of its steps against those of its own steps without drafts.

Rows choose their drafts alone, at prices that hold where all draft alike; what they come to together is only known by
the clock. Tokens never depend on it.
"""

from collections import defaultdict, deque
from statistics import median

from specbound_controller.guard import Debt, GuardLimits

LIMITS = GuardLimits()
LONGEST_PAUSE = 256
"""Steps after which a batch drafts again, whatever came of it before: other texts may have come."""
FEWEST_PLAIN, NEWEST_PLAIN = 2, 8
"""Plain steps that must be known of a number of rows, and the newest of them that count."""
STALE_STEPS = 64
"""Steps with drafts after which a plain one is measured again: the context has grown."""


class BatchGuard:
    """Keeps what drafting has lost, in plain steps. One row alone is left to its policy's own guard."""

    def __init__(self) -> None:
        self._debt = Debt(LIMITS, LONGEST_PAUSE)
        self._plain_s: dict[int, deque[float]] = defaultdict(lambda: deque(maxlen=NEWEST_PLAIN))
        """Seconds of plain steps, by the number of rows."""
        self._num_drafted_steps: dict[int, int] = defaultdict(int)
        """Since the last plain step of so many rows."""

    def must_be_plain(self, num_rows: int) -> bool:
        """Whether no row may draft in the step that begins."""
        if num_rows == 1:
            return False
        is_unknown = len(self._plain_s[num_rows]) < FEWEST_PLAIN
        return self._debt.is_paused or is_unknown or self._num_drafted_steps[num_rows] >= STALE_STEPS

    def observe(self, seconds: float, num_rows: int, num_drafted: int, num_tokens: int) -> None:
        """Books a step of all rows. num_tokens: that they wrote."""
        if num_rows == 1:
            return
        if num_drafted == 0:
            self._plain_s[num_rows].append(seconds)
            self._num_drafted_steps[num_rows] = 0
            self._debt.pass_by()
            return
        self._num_drafted_steps[num_rows] += 1
        if known := self._plain_s[num_rows]:
            self._debt.book(seconds / median(known) - num_tokens / num_rows, 1.0)
