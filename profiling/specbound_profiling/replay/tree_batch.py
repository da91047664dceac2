"""Grows the best-first trees of one plan at many places at once, as `trees.growth.grow` grows each, and says how far
they are right. Sources know no more than what is committed at a place, so no step need wait for the one before it.
"""

# n places, N nodes with the root, W candidates of all sources together

from collections.abc import Sequence

import numpy as np

from specbound_controller.lookup import LOOKUP_EXIT
from specbound_controller.trees.growth import cheapest_floor
from specbound_controller.trees.plan import TreePlan
from specbound_controller.trees.tree import ROOT
from specbound_profiling.replay.candidate_arrays import NEVER, ByRates, ByScore, Judge, candidates, recent_hits
from specbound_profiling.replay.source_arrays import ARRAY_SOURCES, NOTHING, ArraySource, Places, Texts

AT_ONCE = 2048
"""Places whose trees grow together: their candidates stay in fast memory."""


def grows_at_once(plan: TreePlan) -> bool:
    """Whether `outcomes` knows such trees."""
    is_free = plan.exit_layer == LOOKUP_EXIT and plan.growth == "best_first"
    return is_free and plan.max_nodes > 0 and all(name in ARRAY_SOURCES for name in plan.rates)


def outcomes(texts: Texts, plan: TreePlan, text: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draft tokens of the tree at each place, and how many of them are right, one after the other. (n,), (n,)"""
    asked = [texts.source(name, plan.stores) for name in plan.rates]
    names, hits = tuple(plan.rates), np.zeros((0, 0))
    if plan.score is not None:
        hits = recent_hits(texts, names, asked, plan.score.sources)[texts.rows(text, start)]
    parts = []
    for first in range(0, len(text), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        places = texts.places(text[part], start[part])
        judge: Judge = ByRates(plan.rates) if plan.score is None else ByScore(plan.score, names, hits[part])
        parts.append(_Growth(texts, plan, asked, judge, places).run())
    if not parts:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


class _Growth:
    """The trees of some places while they grow, one node in each at a time."""

    def __init__(
        self, texts: Texts, plan: TreePlan, asked: Sequence[ArraySource], judge: Judge, places: Places
    ) -> None:
        count, most = len(places.text), plan.max_nodes
        self.plan, self.asked, self.judge, self.places = plan, asked, judge, places
        self.ends = _padded([sorted(trace.eos_tokens) for trace in texts.traces])[places.text]
        limits = np.array([trace.length_limit for trace in texts.traces])[places.text]
        self.most_depth = np.minimum(plan.max_depth, limits - places.start - 1)
        self.left = texts.num_positions[places.text] - places.start
        ahead = np.arange(most + 1)
        at = np.minimum(places.end[:, None] + ahead, len(texts.tokens) - 1)
        self.truth = np.where(ahead < self.left[:, None], texts.tokens[at], NOTHING)
        """Tokens that follow, `NOTHING` after the end. (n, N)"""
        self.survivals = np.full((count, most + 1), 0.0)
        self.survivals[:, ROOT] = 1.0
        self.depths = np.zeros((count, most + 1), dtype=np.int64)
        self.tails = np.zeros((count, most + 1, places.tails.shape[1]), dtype=np.int64)
        self.tails[:, ROOT] = places.tails
        self.num_nodes = np.zeros(count, dtype=np.int64)
        self.newest_right = np.zeros(count, dtype=np.int64)
        """The last node of the true path so far. (n,)"""
        self.is_right = np.zeros((count, most + 1), dtype=bool)
        self.taken = np.zeros((count, most + 1), dtype=np.int64)
        self.best = np.full((count, most + 1), NEVER)
        """The best survival among a node's candidates that are no nodes yet. (n, N)"""
        self.tokens: np.ndarray | None = None
        """Candidates of each node. (n, N, W)"""
        self.waiting: np.ndarray | None = None
        """Survivals of those that are no nodes yet. (n, N, W)"""

    def run(self) -> tuple[np.ndarray, np.ndarray]:
        """Draft tokens, and how many are right. (n,), (n,)"""
        plan = self.plan
        floors = np.array(cheapest_floor(plan.node_costs)) if plan.node_costs else None
        rows = np.flatnonzero(self.most_depth > 0)
        self._expand(rows, np.full(len(rows), ROOT))
        for number in range(1, plan.max_nodes + 1):
            parent = self.best[rows].argmax(axis=1)
            reached = self.best[rows, parent]
            goes_on = (reached > 0.0) & (reached >= plan.min_survival)
            if floors is not None:
                goes_on &= reached >= floors[number - 1]
            rows, parent, reached = rows[goes_on], parent[goes_on], reached[goes_on]
            if not len(rows):
                break
            is_open = self._add(rows, number, parent, reached)
            if number < plan.max_nodes:
                self._expand(rows[is_open], np.full(int(is_open.sum()), number))
        num_drafted = self._cut()
        kept = np.arange(plan.max_nodes + 1) <= num_drafted[:, None]
        return num_drafted, np.minimum((self.is_right & kept).sum(axis=1), self.left)

    def _expand(self, rows: np.ndarray, node: np.ndarray) -> None:
        """Asks the sources what comes after a node of each row."""
        places = self.places.some(rows)
        places = Places(places.text, places.start, places.end, self.tails[rows, node])
        found = candidates(places, self.asked)
        tokens, scores = found.tokens, self.judge.scores(found, rows, self.depths[rows, node])
        survivals = np.where(scores >= 0.0, scores * self.survivals[rows, node][:, None], NEVER)
        if self.tokens is None or self.waiting is None:
            shape = (*self.best.shape, tokens.shape[1])
            self.tokens, self.waiting = np.full(shape, NOTHING), np.full(shape, NEVER)
        self.tokens[rows, node], self.waiting[rows, node] = tokens, survivals
        self.best[rows, node] = survivals.max(axis=1)

    def _add(self, rows: np.ndarray, number: int, parent: np.ndarray, reached: np.ndarray) -> np.ndarray:
        """Makes the best candidate of a parent a node. Says which of them may have children. (n,) bool"""
        assert self.tokens is not None and self.waiting is not None  # the root has been expanded
        siblings = self.waiting[rows, parent]
        which = siblings.argmax(axis=1)
        token = self.tokens[rows, parent, which]
        siblings[np.arange(len(rows)), which] = NEVER
        self.taken[rows, parent] += 1
        siblings[self.taken[rows, parent] >= self.plan.breadth] = NEVER
        self.waiting[rows, parent] = siblings
        self.best[rows, parent] = siblings.max(axis=1)
        depth = self.depths[rows, parent] + 1
        self.num_nodes[rows] = number
        self.survivals[rows, number], self.depths[rows, number] = reached, depth
        self.tails[rows, number, :-1] = self.tails[rows, parent, 1:]
        self.tails[rows, number, -1] = token
        is_right = (parent == self.newest_right[rows]) & (token == self.truth[rows, depth - 1])
        self.is_right[rows, number] = is_right
        self.newest_right[rows[is_right]] = number
        is_end: np.ndarray = (self.ends[rows] == token[:, None]).any(axis=1)
        is_open: np.ndarray = (depth < self.most_depth[rows]) & ~is_end
        return is_open

    def _cut(self) -> np.ndarray:
        """Draft tokens that are kept: where the expected ones less what they cost are most, the fewest. (n,)"""
        if not self.plan.node_costs:
            return self.num_nodes
        expected = np.concatenate((np.zeros((len(self.best), 1)), np.cumsum(self.survivals[:, 1:], axis=1)), axis=1)
        gain = expected - np.array(self.plan.node_costs)
        gain[np.arange(gain.shape[1]) > self.num_nodes[:, None]] = -np.inf
        best: np.ndarray = gain.argmax(axis=1)
        return best


def _padded(rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Rows of different lengths, filled with a number that is no token. (rows, longest)"""
    most = max((len(row) for row in rows), default=0)
    return np.array([[*row, *[-2] * (most - len(row))] for row in rows], dtype=np.int64).reshape(len(rows), most)
