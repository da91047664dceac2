"""The answer before the table: which method is fastest, how sure that is, whether the sample allows it. Computes
nothing that does not stand in the rows."""

import math
from collections.abc import Sequence

from specbound.results.rows import THEIRS, Row
from specbound_controller.settings import in_words

NOT_POLICIES = (*THEIRS, "plain", "oracle", "oracle_grid")
"""Methods that a headline compares others with."""
FEW_PROMPTS = 8
"""Prompts below which an interval is not to be trusted far."""


def headline(rows: Sequence[Row], reference: str = "plain decoding") -> str:
    """One or two sentences on the rows of all prompts together; empty where no speedup is shown.

    reference: what speedups are over.
    """
    totals = [row for row in rows if row.task == "all" and not math.isnan(row.speedup)]
    own = [row for row in totals if row.method not in NOT_POLICIES]
    if not own:
        return ""
    best = max(own, key=lambda row: row.speedup)
    name = in_words(best.method)
    how = ", by replay" if best.simulated else _outputs(best)
    if best.speedup <= 1.0:
        return (
            f"No method is faster than {reference}: the best, {name}, reaches {best.speedup:.2f}x{_bounds(best)}{how}."
        )
    return f"Fastest is {name}: {best.speedup:.2f}x {reference}{_bounds(best)}{how}.{_doubt(best)}"


def _bounds(row: Row) -> str:
    amount = f"{row.num_prompts} prompt{'s' if row.num_prompts != 1 else ''}"
    if math.isnan(row.speedup_low) or math.isnan(row.speedup_high):
        return f" on {amount}"
    return f" ({row.speedup_low:.2f} to {row.speedup_high:.2f} over {amount})"


def _outputs(row: Row) -> str:
    if row.outputs_equal is None:
        return ""
    if row.outputs_equal:
        return ", outputs equal"
    return f", outputs equal but for {row.num_near_ties} near-ties" if row.num_near_ties else ", OUTPUTS DIFFER"


def _doubt(row: Row) -> str:
    if not math.isnan(row.speedup_low) and row.speedup_low <= 1.0:
        return " The interval holds 1.00x: this may be noise."
    if row.num_prompts < FEW_PROMPTS:
        return f" {row.num_prompts} prompts are few: take it as a hint."
    return ""
