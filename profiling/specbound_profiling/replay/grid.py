"""A grid of fixed decisions at every row of a batch: what each emits and costs there, all of them together.

Decisions that draft at one exit layer, or there after a lookup, are played for all widths at once; any other is played
by itself.
"""

# N rows, A decisions of the grid, R rows at which a step begins

from collections.abc import Iterator, Sequence

import numpy as np

from specbound_controller.costs import WORK_NAMES, CostTable
from specbound_controller.records import Decision
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.replay.exit_tables import is_single_exit
from specbound_profiling.replay.outcomes import step_outcomes
from specbound_profiling.replay.replay import estimated_seconds
from specbound_profiling.replay.result import Steps, num_layer_calls
from specbound_profiling.replay.single_exit import SingleExitPlayer
from specbound_profiling.replay.trace_batch import TraceBatch

CHUNK_ROWS = 4096
"""Rows for which every decision's outcome is held at a time."""


def chunks(traces: Sequence[PromptTrace], most: int | None = None) -> Iterator[Sequence[PromptTrace]]:
    """Traces of about `most` rows together, in order; None takes `CHUNK_ROWS`."""
    most = CHUNK_ROWS if most is None else most
    first, num_rows = 0, 0
    for index, trace in enumerate(traces):
        num_rows += trace.num_positions
        if num_rows >= most:
            yield traces[first : index + 1]
            first, num_rows = index + 1, 0
    if first < len(traces) or not traces:
        yield traces[first:]


class Grid:
    """Every decision of a grid at every row of a batch: those of one exit layer together, others one by one."""

    def __init__(self, batch: TraceBatch, costs: CostTable, num_layers: int, decisions: Sequence[Decision]) -> None:
        self.batch, self.costs, self.num_layers, self.decisions = batch, costs, num_layers, decisions
        is_played = np.array([is_single_exit(decision) for decision in decisions])
        self.played, self.others = np.flatnonzero(is_played), np.flatnonzero(~is_played)
        self.player = SingleExitPlayer(batch, [decisions[action] for action in self.played.tolist()], num_layers)

    def outcomes(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens emitted and seconds. 2 x (N, A)"""
        emitted = np.zeros((self.batch.num_rows, len(self.decisions)), dtype=np.int64)
        seconds = np.zeros((self.batch.num_rows, len(self.decisions)))
        for action in self.others.tolist():
            outcome = step_outcomes(self.batch, self.decisions[action], self.num_layers)
            emitted[:, action], seconds[:, action] = outcome.num_emitted, self.costs.seconds(outcome.work)
        for places in self._profiles():
            widths = sorted({int(self.player.tables.width[place]) for place in places})
            longest = max(places, key=lambda place: int(self.player.tables.width[place]))
            played = self.player.play_widths(longest, widths, self.costs)
            for width, (tokens, price) in zip(widths, played, strict=True):
                for action in (self.played[place] for place in places if self.player.tables.width[place] == width):
                    emitted[:, action], seconds[:, action] = tokens, price
        return emitted, seconds

    def prompt_seconds(self) -> np.ndarray:
        """Seconds of each decision taken at every step of a trace. (B, A)"""
        emitted, seconds = self.outcomes()
        num_traces, num_decisions = len(self.batch.traces), len(self.decisions)
        place = np.arange(num_traces * num_decisions)  # each once in a pass
        row, end = np.repeat(self.batch.first_row + 1, num_decisions), np.repeat(self.batch.end_row, num_decisions)
        totals = np.zeros(num_traces * num_decisions)
        while True:
            runs = row < end
            row, end, place = row[runs], end[runs], place[runs]
            if not len(row):
                return totals.reshape(num_traces, num_decisions)
            action = place % num_decisions
            totals[place] += seconds[row, action]
            row = row + emitted[row, action]

    def _profiles(self) -> list[list[int]]:
        """Indices of the player's decisions, those that differ in no more than their width together."""
        profiles: dict[object, list[int]] = {}
        tables = self.player.tables
        for place in range(len(self.played)):
            score = (tables.score[place], tables.threshold[place], tables.is_product[place])
            source = (tables.exit_layer[place], tables.lookup_threshold[place])
            profiles.setdefault((*source, *score, tables.width[place] == 0), []).append(place)
        return list(profiles.values())

    def steps(self, rows: np.ndarray, prompts: np.ndarray, chosen: np.ndarray) -> Steps:
        """What the chosen decisions do at some rows. chosen: index of a decision. (R,) each"""
        num_drafted, num_accepted = np.zeros(len(rows), dtype=np.int64), np.zeros(len(rows), dtype=np.int64)
        work, estimated = np.zeros((len(rows), len(WORK_NAMES))), np.full(len(rows), np.nan)
        at = np.flatnonzero(np.isin(chosen, self.played))
        place = np.searchsorted(self.played, chosen[at])
        draws = self.player.play(rows[at], place)
        num_drafted[at], num_accepted[at], work[at] = (
            draws.steps.num_drafted,
            draws.steps.num_accepted,
            draws.steps.work,
        )
        unknown = self.costs.seconds(draws.steps.work - draws.known_work)
        estimated[at] = np.where(draws.is_exact, np.nan, unknown)
        for action in np.intersect1d(chosen, self.others).tolist():
            at, outcome = (
                np.flatnonzero(chosen == action),
                step_outcomes(self.batch, self.decisions[action], self.num_layers),
            )
            own = rows[at]
            num_drafted[at], num_accepted[at], work[at] = (
                outcome.num_drafted[own],
                outcome.num_accepted[own],
                outcome.work[own],
            )
            estimated[at] = estimated_seconds(outcome, self.costs)[own]
        # no estimate is checked here: a clairvoyant choice is no fair sample of them
        unchecked = np.full(len(rows), np.nan)
        return Steps(prompts, num_drafted, num_accepted, num_layer_calls(work), work, estimated, unchecked)
