"""Roll-outs of one prompt: what exits say where a draft has left the text. Knows no file."""

# E exit layers, K temperatures, M positions of branches

from dataclasses import dataclass, field, fields

import numpy as np

from specbound_controller.lookup import LOOKUP_EXIT, NO_TOKEN


@dataclass(frozen=True, slots=True, eq=False)
class Branches:
    """Roll-outs of one prompt: what the exits say after a wrong draft, along the drafts of the exit that went wrong.

    A branch that begins with exit e's wrong draft at position p has rows for p + 1, p + 2, ...; each of them is what
    the exits predict there after the true tokens before p, the wrong draft, and e's drafts since. Rows of a branch
    stand together, in order.

    What the context says after a wrong lookup (exit layer 0) takes no model to know. Every such branch is there; where
    the roll-out was not drawn, it holds the lookup alone: nan and `NO_TOKEN` in the columns of all other exits.
    """

    branch_position: np.ndarray
    """Position of the wrong draft. (M,) int64"""
    branch_exit_layer: np.ndarray
    """Exit layer that drafted it. (M,) int64"""
    position: np.ndarray
    """Position that the row predicts. (M,) int64"""
    draft_token: np.ndarray
    """The columns of `PromptTrace`; on a branch nothing is accepted. (M, E) int64"""
    top1_token: np.ndarray
    confidence: np.ndarray
    entropy_nats: np.ndarray
    margin: np.ndarray
    noised_margin: np.ndarray
    draft_probability: np.ndarray
    confidence_at: np.ndarray
    """(M, E, K) float32"""
    rows: dict[tuple[int, int], range] = field(init=False)
    """(position, exit layer) of a wrong draft -> rows of its branch."""
    is_lookup_only: np.ndarray = field(init=False)
    """Rows that hold no more than the lookup. (M,) bool"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_lookup_only", np.isnan(self.confidence[:, -1]))
        starts = np.flatnonzero(self.position == self.branch_position + 1)
        ends = np.append(starts[1:], len(self.position))
        keys = zip(self.branch_position[starts].tolist(), self.branch_exit_layer[starts].tolist(), strict=True)
        ranges = [range(first, end) for first, end in zip(starts.tolist(), ends.tolist(), strict=True)]
        object.__setattr__(self, "rows", dict(zip(keys, ranges, strict=True)))

    def lookups_only(self) -> "Branches | None":
        """The branches of wrong lookups, without what roll-outs add to them; None where there are none."""
        chosen = self.branch_exit_layer == LOOKUP_EXIT
        if not chosen.any():
            return None
        columns = {each.name: getattr(self, each.name)[chosen] for each in fields(self) if each.init}
        for name, values in columns.items():
            if values.ndim > 1:
                columns[name] = values = values.copy()
                values[:, 1:] = NO_TOKEN if values.dtype.kind == "i" else np.nan
        return Branches(**columns)
