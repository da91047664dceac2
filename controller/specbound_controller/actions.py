"""The action grid: what a controller may choose from, one exit layer, width and threshold each.

An action is a plain value that can be stored; with the exit scores at hand it becomes a `Decision`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from specbound_controller.lookup import LOOKUP_EXIT
from specbound_controller.records import Decision, ExitScore

WIDTHS = (1, 2, 3, 4, 6, 8)
"""Width bounds of the default grid."""
THRESHOLDS = (0.1, 0.2, 0.35, 0.55)
"""Thresholds of the default grid; for a calibrated score, least probability that the whole draft is accepted."""
LOOKUP_FIRST = ((0.35, 0.35), (0.5, 0.55), (0.65, 0.55))
"""Threshold pairs of the default grid (of the lookup, of the exit), each token by itself, where the context is looked
up before an exit is run."""
STATIC_LOOKUP_FIRST = (*LOOKUP_FIRST, (0.35, 0.01), (0.65, 0.01))
"""The same in the static grid, which also knows exits that nearly always draft where the lookup is not sure."""
MAX_PROFILES = 12
"""Kinds of action, widths aside, that a controller keeps by default; the more, the longer a decision takes."""
SCORES = ("fixed", "annealed", "learned")
"""Scores that an action may name; `fixed` drafts `width` tokens without a test."""


@dataclass(frozen=True, slots=True)
class Action:
    """One choice for a step."""

    exit_layer: int
    """Exit layer that drafts; 0 for drafts that are looked up in the context, and in plain decoding."""
    width: int
    """Width bound `w_max`; 0 is plain decoding."""
    threshold: float = 0.0
    """Threshold on the score, in [0, 1]; 0 for a fixed draft."""
    score: str = "fixed"
    """One of `SCORES`."""
    combine: str = "product"
    """`token` or `product`: what is compared with the threshold."""
    lookup_threshold: float = 0.0
    """Threshold of the context lookup that is tried before the exit layer is run, in [0, 1]; 0 where none is."""

    def __post_init__(self) -> None:
        if self.width < 0 or self.exit_layer < 0 or (self.width == 0 and self.exit_layer > 0):
            raise ValueError(
                f"width must be above 0 with an exit layer, neither below 0, got {self.width}, {self.exit_layer}"
            )
        if self.score not in SCORES:
            raise ValueError(f"score must be one of {', '.join(SCORES)}, got {self.score!r}")
        if self.combine not in ("token", "product"):
            raise ValueError(f"combine must be 'token' or 'product', got {self.combine!r}")
        if not math.isfinite(self.threshold) or not 0.0 <= self.threshold <= 1.0:
            raise ValueError(f"threshold must be in [0, 1], got {self.threshold}")
        if (self.score == "fixed") != (self.threshold == 0.0):
            raise ValueError(f"threshold must be 0 for a fixed draft and above 0 for others, got {self.threshold}")
        if self.exit_layer == LOOKUP_EXIT and self.width > 0 and self.threshold == 0.0:
            raise ValueError("threshold must be above 0 for looked-up drafts: a lookup may find nothing")
        if not math.isfinite(self.lookup_threshold) or not 0.0 <= self.lookup_threshold <= 1.0:
            raise ValueError(f"lookup_threshold must be in [0, 1], got {self.lookup_threshold}")
        if self.lookup_threshold > 0.0 and (self.exit_layer == LOOKUP_EXIT or self.threshold == 0.0):
            raise ValueError("lookup_threshold must be 0 without an exit layer that is tested after the lookup")

    @property
    def name(self) -> str:
        """Readable name, such as `plain`, `exit3_width4`, `exit3_width4_learned0.5`, `lookup_width4_learned0.5` or
        `lookup0.6_exit3_width4_learned0.5`."""
        if self.width == 0:
            return "plain"
        source = "lookup" if self.exit_layer == LOOKUP_EXIT else f"exit{self.exit_layer}"
        first = f"lookup{self.lookup_threshold:g}_" if self.lookup_threshold else ""
        name = f"{first}{source}_width{self.width}"
        if self.score == "fixed":
            return name
        return f"{name}_{self.score}{self.threshold:g}{'_token' if self.combine == 'token' else ''}"

    def decision(self, scores: Mapping[str, ExitScore]) -> Decision:
        """What the decoder is told. scores: `annealed` and `learned`, where the action names them."""
        if self.width == 0:
            return Decision(w_max=0)
        first = {LOOKUP_EXIT: self.lookup_threshold} if self.lookup_threshold else {}
        return Decision(
            w_max=self.width,
            thresholds={**first, self.exit_layer: self.threshold},
            score=None if self.score == "fixed" else scores[self.score],
            combine=self.combine,
        )


PLAIN = Action(exit_layer=0, width=0)
"""Plain decoding."""


def action_grid(
    exit_layers: Iterable[int],
    widths: Sequence[int] = WIDTHS,
    thresholds: Sequence[float] = THRESHOLDS,
    score: str = "learned",
    combine: str = "product",
    lookup_first: Sequence[tuple[float, float]] = (),
) -> tuple[Action, ...]:
    """Plain decoding, then exits x (fixed draft and each threshold) x widths, shallow and short first. (A,)

    Looked-up drafts (exit layer 0) are never fixed ones. Where lookups were recorded, every exit also comes after a
    lookup, for each pair of `lookup_first` (threshold of the lookup, of the exit), compared token by token.
    """
    actions = [PLAIN]
    exits = sorted(exit_layers)
    for exit_layer in exits:
        if exit_layer != LOOKUP_EXIT:
            actions += [Action(exit_layer, width) for width in sorted(widths)]
        for threshold in sorted(thresholds):
            actions += [Action(exit_layer, width, threshold, score, combine) for width in sorted(widths)]
    if LOOKUP_EXIT in exits:
        for exit_layer in exits[1:]:
            for lookup, threshold in lookup_first:
                actions += [Action(exit_layer, width, threshold, score, "token", lookup) for width in sorted(widths)]
    return tuple(actions)


def static_grid(
    exit_layers: Sequence[int],
    widths: Sequence[int] = WIDTHS,
    thresholds: Sequence[float] = THRESHOLDS,
    lookup_first: Sequence[tuple[float, float]] = STATIC_LOOKUP_FIRST,
) -> tuple[Action, ...]:
    """The settings that a user could choose by hand: fixed drafts, and annealed confidence by token or product."""
    by_product = action_grid(exit_layers, widths, thresholds, "annealed", "product", lookup_first)
    by_token = action_grid(exit_layers, widths, thresholds, "annealed", "token")
    return tuple(dict.fromkeys(by_product + by_token))
