"""The drafts of many steps, token by token: which of them go on, what they read, and where they leave what is known.

Each step drafts at one exit layer, or from the context and at one exit layer after it, by a decision of its own. Scores
and signals come from `ExitTables`.
"""

# R rows at which a step begins, K knots of the row counts that have a price

from dataclasses import dataclass

import numpy as np

from specbound_controller.costs import ROW_KNOTS, row_shares
from specbound_controller.lookup import LOOKUP_EXIT
from specbound_controller.records import STOP_REASONS
from specbound_profiling.replay.exit_tables import ExitTables

_WIDTH, _DEPTH, _EOS, _OFF = (STOP_REASONS.index(reason) for reason in ("width", "depth", "eos", "off"))


@dataclass(slots=True, eq=False)
class DraftWork:
    """What drafts have cost so far."""

    drafted: np.ndarray
    """(R,) int64"""
    reads: np.ndarray
    """Head reads of exits. (R,) int64"""
    tests: np.ndarray
    """Reads whose statistics were taken. (R,) int64"""
    scores: np.ndarray
    """Learned scores. (R,) int64"""
    waiting: np.ndarray
    """Pending tokens that have not run the shallow layers. (R,) int64"""
    shallow_calls: np.ndarray
    """Runs of the shallow layers by knot of their rows, as `row_shares` divides them. (R, K)"""
    shallow_rows: np.ndarray
    """Their rows together. (R,) int64"""

    @staticmethod
    def of_none(num_rows: int) -> "DraftWork":
        """Nothing has been drafted."""
        drafted, reads, tests, scores, shallow_rows = np.zeros((5, num_rows), dtype=np.int64)
        waiting, shallow_calls = np.ones(num_rows, dtype=np.int64), np.zeros((num_rows, len(ROW_KNOTS)))
        return DraftWork(drafted, reads, tests, scores, waiting, shallow_calls, shallow_rows)

    def run_shallow(self, rows: np.ndarray) -> None:
        """Some steps run the shallow layers on all tokens that wait, the newest one at least."""
        waiting = self.waiting[rows]
        self.shallow_calls[rows] += row_shares(waiting)
        self.shallow_rows[rows] += waiting
        self.waiting[rows] = 0

    def keep(self, other: "DraftWork", rows: np.ndarray) -> None:
        """Takes over what another says of some steps."""
        for name in self.__slots__:
            getattr(self, name)[rows] = getattr(other, name)[rows]


class Drafting:
    """The drafts of R steps, token by token."""

    def __init__(
        self,
        tables: ExitTables,
        rows: np.ndarray,
        decision: np.ndarray,
        features: np.ndarray | None,
        follows: bool,
    ) -> None:
        self.tables, self.rows, self.decision, self.features, self.follows = tables, rows, decision, features, follows
        batch, num = tables.batch, len(rows)
        self.width = np.minimum(tables.width[decision], batch.max_width[rows])
        self.exit_layer = np.where(self.width > 0, tables.exit_layer[decision], 0)
        self.exit_index = tables.exit_index[decision]
        self.is_tested = (tables.threshold[decision] > 0) & (self.width > 0)
        self.looks_up = (tables.lookup_threshold[decision] > 0) & (self.width > 0)
        self.can_stop = batch.has_eos[rows] | self.is_tested
        self.is_active = self.width > 0
        self.is_on_path, self.is_known = np.ones(num, dtype=bool), np.ones(num, dtype=bool)
        self.is_done, self.has_followed = np.zeros(num, dtype=bool), np.zeros(num, dtype=bool)
        self.branch = np.full(num, -1)
        self.is_followed = np.zeros(num, dtype=bool)
        """Whether what a branch says of exits with a head holds for the step that follows it. (R,)"""
        self.stop_reason = np.where(self.width > 0, _WIDTH, _OFF)
        self.product = np.ones(num)
        self.accepted = np.zeros(num, dtype=np.int64)
        self.work, self.known_work = DraftWork.of_none(num), DraftWork.of_none(num)
        """Of the steps, and what of it is known where they are not."""
        self.last, self.sums = np.zeros((num, 2)), np.zeros((num, 2))
        """Confidence and entropy of the last draft, and their sums. (R, 2) each"""
        self.last_exit = np.zeros(num, dtype=np.int64)
        """Exit layer of the last draft. (R,)"""
        self.is_exit_run = np.zeros((num, int(self.width.max(initial=0))), dtype=bool)
        """Whether an exit with a head was run for each draft token. (R, longest width)"""

    def step(self, draft_index: int) -> bool:
        """Tries to draft one more token wherever the draft goes on; whether it did anywhere."""
        active = np.flatnonzero(self.is_active & (self.width > draft_index))
        if not len(active):
            return False
        batch, work = self.tables.batch, self.work
        unknown = active[
            self.is_known[active] & ~self.is_on_path[active] & (self.branch[active] < 0) & self.can_stop[active]
        ]
        self._keep_what_is_known(unknown)
        exits = self.exit_index[active]
        is_found = self._look_up(active, draft_index)
        exits[is_found] = self.tables.lookup_index
        goes_on = is_found.copy()
        goes_on[~is_found] = self._try_exit(active[~is_found], exits[~is_found], draft_index)
        stopped = active[~goes_on]
        self.stop_reason[stopped], self.is_active[stopped] = _DEPTH, False
        active, exits = active[goes_on], exits[goes_on]
        wanted, last_row = self.rows[active] + draft_index, batch.last_row[self.rows[active]]
        is_past_end, row = wanted > last_row, np.minimum(wanted, last_row)
        at, is_branch = self.branch[active], self.branch[active] >= 0
        said = batch.said.rows(row, draft_index)
        is_eos = ~is_past_end & batch.said.is_eos_draft[said, exits]
        if is_branch.any():
            is_eos[is_branch] = batch.branches.is_eos_draft[at[is_branch], exits[is_branch]]
        is_correct = self.is_on_path[active] & ~is_past_end & batch.said.is_accepted[said, exits]
        work.drafted[active] += 1
        work.waiting[active] += 1
        self.last_exit[active] = self.tables.exit_layers[exits]
        self.accepted[active] += is_correct
        self.is_done[active] = is_correct & is_eos
        if len(batch.branches.end):
            self._follow(active, row, exits, self.is_on_path[active] & ~is_correct & ~is_past_end, draft_index)
        self.is_on_path[active] = is_correct
        ended = active[is_eos]
        self.stop_reason[ended], self.is_active[ended] = _EOS, False
        return True

    def _keep_what_is_known(self, rows: np.ndarray) -> None:
        """From here on some steps are estimates."""
        self.known_work.keep(self.work, rows)
        self.is_known[rows] = False

    def _leave_lookups(self, rows: np.ndarray) -> None:
        """Some steps read an exit's head: those that stand where the context alone is known leave what is known."""
        branches, at = self.tables.batch.branches, self.branch[rows]
        if not (at >= 0).any():
            return
        is_bare = branches.is_lookup_only[np.maximum(at, 0)] | ~self.is_followed[rows]
        leaves = rows[(at >= 0) & is_bare]
        self._keep_what_is_known(leaves[self.is_known[leaves] & self.can_stop[leaves]])
        self.branch[leaves] = -1

    def _look_up(self, active: np.ndarray, draft_index: int) -> np.ndarray:
        """Which of some steps draft what the context says, before they would run their exit. (rows,) bool"""
        is_found = self.looks_up[active]
        if is_found.any():
            rows = active[is_found]
            exits = np.full(len(rows), self.tables.lookup_index)
            is_found[is_found] = self._test(rows, exits, self.tables.lookup_threshold[self.decision[rows]], draft_index)
        return is_found

    def _try_exit(self, active: np.ndarray, exits: np.ndarray, draft_index: int) -> np.ndarray:
        """Whether the exits of some steps draft a token. (rows,) bool"""
        is_run = active[self.exit_layer[active] != LOOKUP_EXIT]
        self._leave_lookups(is_run)
        self.is_exit_run[is_run, draft_index] = True
        self.work.reads[is_run] += 1
        self.work.tests[is_run] += self.is_tested[is_run]
        self.work.run_shallow(is_run)
        clears = np.ones(len(active), dtype=bool)
        tested = np.flatnonzero(self.is_tested[active])
        if len(tested):
            rows = active[tested]
            clears[tested] = self._test(rows, exits[tested], self.tables.threshold[self.decision[rows]], draft_index)
        return clears

    def _test(self, active: np.ndarray, exits: np.ndarray, thresholds: np.ndarray, draft_index: int) -> np.ndarray:
        """Whether the exits' scores clear their thresholds; keeps what those that do have read. (rows,) bool"""
        tables, branch = self.tables, self.branch[active]
        row = np.minimum(self.rows[active] + draft_index, tables.batch.last_row[self.rows[active]])
        self.work.scores[active] += tables.is_learned[self.decision[active]]
        is_branch = branch >= 0
        said = tables.batch.said.rows(row, draft_index)
        at, decision = np.where(is_branch, branch, said), self.decision[active]
        score = np.empty(len(active))
        for index in range(len(tables.scores)):
            own = np.flatnonzero(tables.score[decision] == index)
            if len(own):
                features = np.empty((len(own), 0)) if self.features is None else self.features[active[own]]
                score[own] = tables.score_values(index, at[own], is_branch[own], exits[own], features, draft_index)
        value = np.where(tables.is_product[decision], self.product[active] * score, score)
        clears: np.ndarray = value >= thresholds
        kept = active[clears]
        self.product[kept] *= score[clears]
        place = (np.where(is_branch, len(tables.batch.said.is_accepted) + branch, said)[clears], exits[clears])
        self.last[kept] = np.column_stack([values[place] for values in tables.read])
        self.sums[kept] += self.last[kept]
        return clears

    def _follow(
        self, active: np.ndarray, row: np.ndarray, exits: np.ndarray, leaves: np.ndarray, draft_index: int
    ) -> None:
        """Moves along branches, and onto one where a draft has just gone wrong."""
        # branches begin with first drafts: what exits say along them is of drafts counted from there
        follows = self.follows and (draft_index == 0 or self.tables.batch.said.num_drafts == 1)
        branches, at = self.tables.batch.branches, np.maximum(self.branch[active], 0)
        tokens = branches.draft_token[at]
        is_its_own = tokens[np.arange(len(at)), exits] == tokens[np.arange(len(at)), branches.along[at]]
        is_next = (self.branch[active] >= 0) & is_its_own & (at + 1 < branches.end[at])
        following = np.where(is_next, at + 1, -1)
        leaves &= follows | (self.tables.exit_layers[exits] == LOOKUP_EXIT)
        self.is_followed[active[leaves]] = follows
        self.branch[active] = np.where(leaves, branches.first[row, exits], following)
        self.has_followed[active] |= self.branch[active] >= 0

    def signals(self) -> np.ndarray:
        """Flag, last and mean confidence and entropy of the tested drafts. (R, 5)"""
        has_any = self.is_tested & (self.work.drafted > 0)
        mean = self.sums / np.maximum(self.work.drafted, 1)[:, None]
        signals: np.ndarray = np.column_stack([has_any, self.last, mean]) * has_any[:, None]
        return signals
