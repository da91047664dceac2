"""The drafts of many steps, token by token: which of them go on, what they read, and where they leave what is known.

Each step drafts at one exit layer, by a decision of its own. Scores and signals come from the player that runs it.
"""

# R rows at which a step begins

from typing import TYPE_CHECKING

import numpy as np

from specbound_controller.records import STOP_REASONS

if TYPE_CHECKING:
    from specbound_profiling.single_exit import SingleExitPlayer

_WIDTH, _DEPTH, _EOS, _OFF = (STOP_REASONS.index(reason) for reason in ("width", "depth", "eos", "off"))


class Drafting:
    """The drafts of R steps, token by token."""

    def __init__(
        self,
        player: "SingleExitPlayer",
        rows: np.ndarray,
        decision: np.ndarray,
        features: np.ndarray | None,
        follows: bool,
    ) -> None:
        self.player, self.rows, self.decision, self.features, self.follows = player, rows, decision, features, follows
        batch, num = player.batch, len(rows)
        self.width = np.minimum(player.width[decision], batch.max_width[rows])
        self.exit_layer = np.where(self.width > 0, player.exit_layer[decision], 0)
        self.exit_index = player.exit_index[decision]
        self.is_tested = (player.threshold[decision] > 0) & (self.width > 0)
        self.is_learned = player.is_learned[decision] & self.is_tested
        self.can_stop = batch.has_eos[rows] | self.is_tested
        self.is_active = self.width > 0
        self.is_on_path, self.is_known = np.ones(num, dtype=bool), np.ones(num, dtype=bool)
        self.is_done, self.has_followed = np.zeros(num, dtype=bool), np.zeros(num, dtype=bool)
        self.branch = np.full(num, -1)
        self.stop_reason = np.where(self.width > 0, _WIDTH, _OFF)
        self.product = np.ones(num)
        self.drafted, self.accepted, self.reads = (np.zeros(num, dtype=np.int64) for _ in range(3))
        self.known_drafted, self.known_reads = np.zeros(num, dtype=np.int64), np.zeros(num, dtype=np.int64)
        self.last, self.sums = np.zeros((num, 2)), np.zeros((num, 2))
        """Confidence and entropy of the last draft, and their sums. (R, 2) each"""

    def step(self, draft_index: int) -> bool:
        """Tries to draft one more token wherever the draft goes on; whether it did anywhere."""
        active = np.flatnonzero(self.is_active & (self.width > draft_index))
        if not len(active):
            return False
        batch, exits = self.player.batch, self.exit_index[active]
        unknown = active[
            self.is_known[active] & ~self.is_on_path[active] & (self.branch[active] < 0) & self.can_stop[active]
        ]
        self.known_drafted[unknown], self.known_reads[unknown] = self.drafted[unknown], self.reads[unknown]
        self.is_known[unknown] = False
        last_row = batch.last_row[self.rows[active]]
        wanted = self.rows[active] + draft_index
        is_past_end, row = wanted > last_row, np.minimum(wanted, last_row)
        self.reads[active] += 1
        clears = np.ones(len(active), dtype=bool)
        tested = np.flatnonzero(self.is_tested[active])
        if len(tested):
            clears[tested] = self._test(active[tested], row[tested], exits[tested], draft_index)
        stopped = active[~clears]
        self.stop_reason[stopped], self.is_active[stopped] = _DEPTH, False
        active, row, exits, is_past_end = active[clears], row[clears], exits[clears], is_past_end[clears]
        at, is_branch = self.branch[active], self.branch[active] >= 0
        is_eos = ~is_past_end & batch.is_eos_draft[row, exits]
        if is_branch.any():
            is_eos[is_branch] = batch.branches.is_eos_draft[at[is_branch], exits[is_branch]]
        is_correct = self.is_on_path[active] & ~is_past_end & batch.is_accepted[row, exits]
        self.drafted[active] += 1
        self.accepted[active] += is_correct
        self.is_done[active] = is_correct & is_eos
        if self.follows and len(batch.branches.end):
            self._follow(active, row, exits, self.is_on_path[active] & ~is_correct & ~is_past_end)
        self.is_on_path[active] = is_correct
        ended = active[is_eos]
        self.stop_reason[ended], self.is_active[ended] = _EOS, False
        return True

    def _test(self, active: np.ndarray, row: np.ndarray, exits: np.ndarray, draft_index: int) -> np.ndarray:
        """Whether the exits' scores clear their thresholds; keeps what those that do have read. (rows,) bool"""
        player, branch = self.player, self.branch[active]
        is_branch = branch >= 0
        at, decision = np.where(is_branch, branch, row), self.decision[active]
        score = np.empty(len(active))
        for index in range(len(player.scores)):
            own = np.flatnonzero(player.score[decision] == index)
            if len(own):
                features = np.empty((len(own), 0)) if self.features is None else self.features[active[own]]
                score[own] = player.score_values(index, at[own], is_branch[own], exits[own], features, draft_index)
        value = np.where(player.is_product[decision], self.product[active] * score, score)
        clears: np.ndarray = value >= player.threshold[decision]
        kept = active[clears]
        self.product[kept] *= score[clears]
        place = (np.where(is_branch, player.batch.num_rows + branch, row)[clears], exits[clears])
        self.last[kept] = np.column_stack([values[place] for values in player.read])
        self.sums[kept] += self.last[kept]
        return clears

    def _follow(self, active: np.ndarray, row: np.ndarray, exits: np.ndarray, leaves: np.ndarray) -> None:
        """Moves along branches, and onto one where a draft has just gone wrong."""
        branches, at = self.player.batch.branches, self.branch[active]
        on_branch = at >= 0
        following = np.where(on_branch & (at + 1 < branches.end[np.maximum(at, 0)]), at + 1, -1)
        self.branch[active] = np.where(leaves, branches.first[row, exits], following)
        self.has_followed[active] |= self.branch[active] >= 0

    def signals(self) -> np.ndarray:
        """Flag, last and mean confidence and entropy of the tested drafts. (R, 5)"""
        has_any = self.is_tested & (self.drafted > 0)
        mean = self.sums / np.maximum(self.drafted, 1)[:, None]
        signals: np.ndarray = np.column_stack([has_any, self.last, mean]) * has_any[:, None]
        return signals
