"""The figures of the study of objectives, as values and as a table."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Judged:
    """One objective replayed on the validation prompts of one level."""

    objective: str
    level: str
    """Compression level of the log, and the sampling temperature where there is one."""
    fitted_for: str
    """Prices that it was fitted at: `log` for the log's own, else the name of another table."""
    priced_at: str
    """Prices that it is replayed at."""
    speedup: float
    """Replayed tokens per second over plain decoding."""
    over_static: float
    """Over the static action that is best on the training prompts at these prices."""
    over_static_low: float
    """95 % interval over prompts, by paired bootstrap: lower end."""
    over_static_high: float
    over_curves: float
    """Over the survival curves that were fitted at the log's prices."""
    over_curves_low: float
    over_curves_high: float
    tokens_per_step: float
    num_outputs: int
    """Of the perceptron."""
    decision_us: float
    """Median of decisions one after another, warm."""
    can_be_priced: bool
    """Whether the choice follows other prices without training again."""
    num_rounds: int
    process_seconds: float
    """What fitting took, the exit score left out."""


def table(judged: Sequence[Judged]) -> str:
    """As Markdown."""
    lines = [
        "| level | fitted at | priced at | objective | over plain | over best static (95 %) | over the curves (95 %) "
        "| tokens per step | outputs | decision, µs | can be priced anew | rounds | fit, processor s |",
        "|---" * 13 + "|",
    ]
    for each in judged:
        lines.append(
            f"| {each.level} | {each.fitted_for} | {each.priced_at} | {each.objective} | {each.speedup:.3f} "
            f"| {each.over_static:.3f} ({each.over_static_low:.3f} to {each.over_static_high:.3f}) "
            f"| {each.over_curves:.3f} ({each.over_curves_low:.3f} to {each.over_curves_high:.3f}) "
            f"| {each.tokens_per_step:.2f} | {each.num_outputs} | {each.decision_us:.0f} "
            f"| {'yes' if each.can_be_priced else 'no'} | {each.num_rounds} | {each.process_seconds:.0f} |"
        )
    return "\n".join(lines)
