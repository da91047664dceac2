"""Grows a draft tree to which an early exit adds its tokens: which nodes run to the exit, and which others stand in it.

Depth by depth the best nodes run to the exit together; they stand first, in the order in which they run, so that a
cache holds every node at its place in the tree. The nodes that no exit is asked about follow, the best first.
"""

from collections.abc import Sequence
from heapq import heapify, heappop, heappush

from specbound_controller.sources.source import TAIL, DraftSource
from specbound_controller.trees.growth import Child, best_size, cheapest_floor, children_of, score_of
from specbound_controller.trees.plan import TreePlan
from specbound_controller.trees.tree import ROOT, DraftTree

EXIT = "exit"
"""Source of the tokens that an exit proposed."""
NO_CELL = -1
"""An exit's probability is its token's score: no rate is looked up."""
Waiting = tuple[float, int, int, Child]
"""A candidate that is no node yet: minus the survival, a number that tells equals apart, parent, child."""


class ExitGrowth:
    """One step's tree while it grows: ask for the `frontier`, run it to the exit, `take` what the exit says."""

    def __init__(
        self,
        tokens: Sequence[int],
        sources: Sequence[DraftSource],
        plan: TreePlan,
        most_depth: int,
        end_tokens: frozenset[int] = frozenset(),
    ) -> None:
        """The arguments of `grow`, with a plan that has an exit."""
        self.tree, self.plan = DraftTree([tokens[-1]]), plan
        self._asked = [(source, plan.rates[source.name]) for source in sources if source.name in plan.rates]
        self._tails = [tuple(tokens[-TAIL:])]
        self._most_depth = min(most_depth, plan.max_depth)
        self._end_tokens = end_tokens
        self._waiting: list[Waiting] = []
        self._num_offered = 0
        self.frontier: list[int] = [ROOT] if plan.max_nodes > 0 and self._most_depth > 0 else []
        """Nodes that run to the exit next, side by side in the tree; empty where the tree is whole."""
        self.num_run = len(self.frontier)
        """Nodes, the first of the tree, that have run to the exit or are to run next."""

    def take(self, proposals: Sequence[Sequence[tuple[int, float]]]) -> None:
        """What the exit proposes after each node of the frontier: tokens with their chances, the best first."""
        for node, proposed in zip(self.frontier, proposals, strict=True):
            self._offer(node, self._merged(node, proposed))
        self.frontier = self._next_frontier()
        self.num_run += len(self.frontier)
        if not self.frontier:
            self._add_leaves()

    def _merged(self, node: int, proposed: Sequence[tuple[int, float]]) -> list[Child]:
        """The best children of a node by exit and sources; where several propose a token, the best score counts."""
        best = {child[1]: child for child in children_of(self._tails[node], self._asked, self.plan.breadth)}
        for token, chance in proposed:
            held = best.get(token)
            if held is None or chance > held[0]:
                best[token] = (chance, token, EXIT, NO_CELL)
        return sorted(best.values(), key=score_of, reverse=True)[: self.plan.breadth]

    def _offer(self, parent: int, children: Sequence[Child]) -> None:
        for child in children:
            survival = self.tree.survivals[parent] * child[0]
            if survival > 0.0 and survival >= self.plan.min_survival:
                self._num_offered += 1
                heappush(self._waiting, (-survival, self._num_offered, parent, child))

    def _next_frontier(self) -> list[int]:
        """Makes nodes of the candidates that are worth to be run further: of the next depth, at most a beam of them."""
        room = min(self.plan.exit_beam, self.plan.max_nodes - self.tree.num_drafted)
        depth = self.tree.depths[self.frontier[0]] + 1
        if room < 1 or depth >= self._most_depth:
            return []
        chosen: list[Waiting] = []
        for item in sorted(self._waiting):
            lost, _, parent, child = item
            if len(chosen) == room or -lost < self.plan.exit_survival:
                break
            if self.tree.depths[parent] == depth - 1 and child[1] not in self._end_tokens:
                chosen.append(item)
        if chosen:
            self._waiting = [item for item in self._waiting if item not in chosen]
            heapify(self._waiting)
        return [self._add(parent, child) for _, _, parent, child in chosen]

    def _add(self, parent: int, child: Child) -> int:
        score, token, source, cell = child
        self._tails.append((*self._tails[parent], token)[-TAIL:])
        return self.tree.add(parent, token, source, cell, self.tree.survivals[parent] * score)

    def _add_leaves(self) -> None:
        """Fills the tree best first with the other candidates, and what the sources propose after them."""
        tree, plan = self.tree, self.plan
        fewest = tree.num_drafted
        floors = cheapest_floor(plan.node_costs) if plan.node_costs else None
        while self._waiting and tree.num_drafted < plan.max_nodes:
            lost, _, parent, child = heappop(self._waiting)
            if floors is not None and -lost < floors[tree.num_drafted]:
                break
            node = self._add(parent, child)
            if tree.depths[node] < self._most_depth and child[1] not in self._end_tokens:
                self._offer(node, children_of(self._tails[node], self._asked, plan.breadth))
        if plan.node_costs:
            tree.cut(1 + best_size(tree.survivals[1:], plan.node_costs, fewest))
