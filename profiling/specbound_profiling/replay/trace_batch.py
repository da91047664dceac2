"""Traces of one log as arrays over all their positions: what replay of many steps at once reads. Knows no decision."""

# N rows (positions of all traces, concatenated), E exit layers, K temperatures, M rows of branches (of all traces)

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from specbound_controller.errors import InputError
from specbound_controller.lookup import LOOKUP_EXIT
from specbound_controller.policy import AnnealedConfidence
from specbound_profiling.log.trace import PromptTrace, interpolate_confidence
from specbound_profiling.replay.said import Said


class TraceBatch:
    """Traces of one log, concatenated along the positions."""

    def __init__(self, traces: Sequence[PromptTrace]) -> None:
        if not traces:
            raise InputError("a log must hold at least one trace, got none")
        if len({(t.exit_layers, t.temperatures) for t in traces}) != 1:
            raise InputError("traces must share exit layers and temperatures; they come from different runs")
        self.traces = tuple(traces)
        self.exit_layers, self.temperatures = traces[0].exit_layers, traces[0].temperatures
        lengths = np.array([t.num_positions for t in traces])
        self.first_row = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        """First row of each trace. (number of traces,)"""
        self.end_row = self.first_row + lengths
        """Row after the last one of each trace. (number of traces,)"""
        self.position = np.concatenate([np.arange(n) for n in lengths])
        """(N,)"""
        self.last_row = np.repeat(self.end_row - 1, lengths)
        """Last row of the trace that the row belongs to. (N,)"""
        self.context_length = np.repeat([t.prompt_length for t in traces], lengths) + self.position
        """Committed tokens before a step that starts at the row. (N,)"""
        self.max_width = np.repeat([t.length_limit for t in traces], lengths) - self.position - 1
        """Tokens still wanted less one: what clips the width. (N,)"""
        self.said = Said(traces)
        """What the exits say of every draft of a step."""
        self.is_accepted = self.said.is_accepted[: len(self.position)]
        """Of first drafts. (N, E)"""
        self.has_eos = np.repeat([bool(t.eos_tokens) for t in traces], lengths)
        """Whether a draft of the row's trace may be an end token. (N,)"""
        self.lookups = np.concatenate([t.lookups for t in traces])
        """Length, probability and recency of what the context says. (N, 3)"""
        self.branches = BranchBatch(self)

    @property
    def num_rows(self) -> int:
        return len(self.position)

    def exit_index(self, exit_layer: int) -> int:
        """Column of an exit layer. Raises InputError where it was not recorded."""
        return self.traces[0].exit_index(exit_layer)

    def scores(self, score: AnnealedConfidence, exit_layers: Sequence[int], num_layers: int) -> np.ndarray:
        """Annealed confidence at every row of `said` and some exits; other columns stay nan. (D * N, E) float64"""
        return self._annealed(self.said.confidence_at, score, exit_layers, num_layers)

    def branch_scores(self, score: AnnealedConfidence, exit_layers: Sequence[int], num_layers: int) -> np.ndarray:
        """The same at the rows of the branches. (M, E) float64"""
        return self._annealed(self.branches.confidence_at, score, exit_layers, num_layers)

    def _annealed(
        self, confidence_at: np.ndarray, score: AnnealedConfidence, exit_layers: Sequence[int], num_layers: int
    ) -> np.ndarray:
        scores = np.full(confidence_at.shape[:2], np.nan)
        for exit_layer in exit_layers:
            index, temperature = self.exit_index(exit_layer), score.temperature(exit_layer, num_layers)
            if exit_layer == LOOKUP_EXIT:
                scores[:, index] = confidence_at[:, index, 0]
            else:
                scores[:, index] = interpolate_confidence(confidence_at[:, index], self.temperatures, temperature)
        return scores


class BranchBatch:
    """The branches of a batch's traces, concatenated; rows of one branch stand together."""

    def __init__(self, batch: TraceBatch) -> None:
        traces, num_exits = batch.traces, len(batch.exit_layers)
        self.first = np.full((batch.num_rows, num_exits), -1)
        """First row of the branch that an exit's wrong draft at a row begins, -1 where none was followed. (N, E)"""
        ends, along, first_row = [], [], 0
        found = [trace.branches for trace in traces if trace.branches is not None]
        for trace, first in zip(traces, batch.first_row, strict=True):
            if trace.branches is None:
                continue
            for (position, exit_layer), rows in trace.branches.rows.items():
                self.first[first + position, batch.exit_index(exit_layer)] = first_row + rows.start
                ends.append(np.full(len(rows), first_row + rows.stop))
                along.append(np.full(len(rows), batch.exit_index(exit_layer)))
            first_row += len(trace.branches.position)
        self.end = np.concatenate([np.zeros(0, dtype=np.int64), *ends])
        """Row after the last one of the row's branch. (M,)"""
        self.along = np.concatenate([np.zeros(0, dtype=np.int64), *along])
        """Exit index whose drafts the branch goes along. (M,)"""
        self.is_lookup_only = np.concatenate([np.zeros(0, dtype=bool), *(b.is_lookup_only for b in found)])
        """Rows that say what the context says, and nothing of other exits. (M,)"""
        self.draft_token = np.concatenate([np.zeros((0, num_exits), dtype=np.int64), *(b.draft_token for b in found)])
        """(M, E)"""
        eos = [np.isin(t.branches.draft_token, list(t.eos_tokens)) for t in traces if t.branches is not None]
        self.is_eos_draft = np.concatenate([np.zeros((0, num_exits), dtype=bool), *eos])
        """(M, E)"""
        self._found, self._shape = found, (0, num_exits, len(batch.temperatures))

    @cached_property
    def confidence_at(self) -> np.ndarray:
        """(M, E, K)"""
        return np.concatenate([np.zeros(self._shape, dtype=np.float32), *(b.confidence_at for b in self._found)])
