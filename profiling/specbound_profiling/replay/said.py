"""What the exits of some traces say of every draft of a step, as arrays: the first draft's rows, the second's, ...

Exits that do not read the full model's verified state say the same of all of them, and then there are the first's rows
only. Knows no decision.
"""

# N rows of a batch (positions of all traces), D drafts of a step that differ, E exit layers, K temperatures

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from specbound_controller.errors import InputError
from specbound_profiling.log.later import Later
from specbound_profiling.log.trace import PromptTrace


class Said:
    """Rows of all drafts, one draft's after another's."""

    def __init__(self, traces: Sequence[PromptTrace]) -> None:
        if len({len(trace.later) for trace in traces}) != 1:
            raise InputError("traces must say the same number of later drafts; they come from different runs")
        self.num_rows = sum(trace.num_positions for trace in traces)
        """N"""
        self.num_drafts = 1 + len(traces[0].later)
        """D"""
        self.sources: list[PromptTrace | Later] = [
            trace.said(draft_index) for draft_index in range(self.num_drafts) for trace in traces
        ]
        """Each trace's first drafts, then each trace's second ones, ..."""
        self.is_accepted = np.concatenate([source.is_accepted for source in self.sources])
        """(D * N, E)"""
        eos = [list(trace.eos_tokens) for trace in traces] * self.num_drafts
        ends = [np.isin(source.draft_token, tokens) for source, tokens in zip(self.sources, eos, strict=True)]
        self.is_eos_draft = np.concatenate(ends)
        """(D * N, E)"""

    @cached_property
    def confidence_at(self) -> np.ndarray:
        """(D * N, E, K)"""
        return np.concatenate([source.confidence_at for source in self.sources])

    def rows(self, rows: np.ndarray, draft_index: int | np.ndarray) -> np.ndarray:
        """Where some rows of the batch stand as drafts of an index; the last one that is known stands for later ones.
        (R,) -> (R,)"""
        found: np.ndarray = rows + self.num_rows * np.minimum(draft_index, self.num_drafts - 1)
        return found
