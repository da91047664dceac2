"""Grows a draft tree from sources that cost no layer: which nodes stand in it is decided here and nowhere else.

Candidates are scored by the acceptance rates of their cells, where several sources propose a token by the best of them,
or by a learned score. A node's survival is the product of the scores along its path.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from itertools import islice
from typing import Any

from specbound_controller.sources.source import TAIL, DraftSource
from specbound_controller.trees.plan import TreePlan
from specbound_controller.trees.scored import Scored
from specbound_controller.trees.tree import ROOT, DraftTree

Child = tuple[float, int, str, int]
"""Score, token, source and cell of a candidate after a path."""
Children = list[Child]
"""The best first."""
MOST_CHILDREN = 64
"""More than all sources propose together."""


def grow(
    tokens: Sequence[int],
    sources: Sequence[DraftSource],
    plan: TreePlan,
    most_depth: int,
    end_tokens: frozenset[int] = frozenset(),
    known: dict[tuple[int, ...], Children] | None = None,
    recent: Sequence[float] = (),
) -> DraftTree:
    """The tree after a sequence.

    Args:
        tokens: of the sequence, the last one being the root; only the newest are read.
        sources: asked in this order; of those with equal scores the first counts.
        most_depth: bounds the plan's; 0 leaves the root alone.
        end_tokens: nodes that hold one of them get no children.
        known: newest tokens of a path -> all its candidates by the same sources and rates at this place of the text;
            used and filled, so that other plans need not ask again. Not with a learned score, which reads more.
        recent: how often each source was right lately, for a learned score.
    """
    tree = DraftTree([tokens[-1]])
    asked = [(source, plan.rates[source.name]) for source in sources if source.name in plan.rates]
    tails = [tuple(tokens[-TAIL:])]
    scored = None if plan.score is None else Scored(plan.score, [source for source, _ in asked], recent)

    def expand(node: int) -> Children:
        tail = tails[node]
        if scored is not None:
            return scored.children(tail, tree.depths[node], plan.breadth)
        if known is None:
            return children_of(tail, asked, plan.breadth)
        found = known.get(tail)
        if found is None:
            found = known[tail] = children_of(tail, asked, MOST_CHILDREN)
        return found[: plan.breadth]

    def add(parent: int, child: Child) -> int:
        score, token, source, cell = child
        tails.append((*tails[parent], token)[-TAIL:])
        return tree.add(parent, token, source, cell, tree.survivals[parent] * score)

    most_depth = min(most_depth, plan.max_depth)
    if plan.max_nodes > 0 and most_depth > 0:
        _GROWTHS[plan.growth](tree, plan, most_depth, expand, add, end_tokens)
    if plan.node_costs:
        tree.cut(1 + best_size(tree.survivals[1:], plan.node_costs))
    return tree


def children_of(tail: tuple[int, ...], asked: Sequence[tuple[DraftSource, Sequence[float]]], breadth: int) -> Children:
    """The best candidates after a path. asked: sources with the rates of their cells."""
    best: dict[int, Child] = {}
    for source, rates in asked:
        name = source.name
        for token, cell in source.propose(tail):
            score = rates[cell]
            held = best.get(token)
            if held is None or score > held[0]:
                best[token] = (score, token, name, cell)
    found = sorted(best.values(), key=score_of, reverse=True)
    return found[:breadth]


def best_size(survivals: Sequence[float], node_costs: Sequence[float], fewest: int = 0) -> int:
    """How many of the first nodes to keep: where their expected tokens less what they cost is largest, the fewest."""
    best, best_gain = fewest, sum(survivals[:fewest]) - node_costs[fewest]
    expected = best_gain + node_costs[fewest]
    for count, survival in enumerate(survivals[fewest:], start=fewest + 1):
        expected += survival
        gain = expected - node_costs[count]
        if gain > best_gain:
            best, best_gain = count, gain
    return best


def cut_together(trees: Sequence[DraftTree], shared_costs: Sequence[float]) -> None:
    """Cuts the trees of a batch, each grown best first: of all nodes the likeliest stay, so many as pay together."""
    nodes = [
        (-survival, node, row) for row, tree in enumerate(trees) for node, survival in enumerate(tree.survivals) if node
    ]
    nodes = sorted(nodes)[: len(shared_costs) - 1]
    kept = Counter(row for _, _, row in nodes[: best_size([-lost for lost, _, _ in nodes], shared_costs)])
    for row, tree in enumerate(trees):
        tree.cut(1 + kept[row])


def cheapest_floor(node_costs: Sequence[float]) -> list[float]:
    """The least survival at which a further node can pay, alone or with those after it, for n = 0 .. max_nodes - 1."""
    floors = []
    for count in range(len(node_costs) - 1):
        here = node_costs[count]
        floors.append(min((cost - here) / more for more, cost in enumerate(node_costs[count + 1 :], start=1)))
    return floors


Expand = Callable[[int], Children]
Add = Callable[[int, Child], int]


def _best_first(
    tree: DraftTree, plan: TreePlan, most_depth: int, expand: Expand, add: Add, end_tokens: frozenset[int]
) -> None:
    """The node with the largest survival of all that may be added, again and again.

    The heap holds the next child of each node that has one left: siblings come in the order of their scores.
    """
    floors = cheapest_floor(plan.node_costs) if plan.node_costs else None
    survivals = tree.survivals
    heap: list[tuple[float, int, int]] = []  # minus the survival, the parent, which of its children
    lists: list[Children] = []

    def offer(parent: int, place: int) -> None:
        children = lists[parent]
        if place < len(children):
            survival = survivals[parent] * children[place][0]
            if survival > 0.0 and survival >= plan.min_survival:
                heappush(heap, (-survival, parent, place))

    lists.append(expand(ROOT))
    offer(ROOT, 0)
    while heap:
        lost, parent, place = heappop(heap)
        if floors is not None and -lost < floors[tree.num_drafted]:
            break
        node = add(parent, lists[parent][place])
        if tree.num_drafted >= plan.max_nodes:
            break
        is_open = tree.depths[node] < most_depth and tree.tokens[node] not in end_tokens
        lists.append(expand(node) if is_open else [])
        offer(parent, place + 1)
        offer(node, 0)


def _eagle2(
    tree: DraftTree, plan: TreePlan, most_depth: int, expand: Expand, add: Add, end_tokens: frozenset[int]
) -> None:
    """EAGLE-2: depth by depth the `beam` best nodes get children; of all that were seen the best `max_nodes` stay."""
    seen: list[tuple[float, int, int, Child]] = []  # survival, parent in `grown`, depth, child
    beam: list[tuple[float, int]] = [(1.0, ROOT)]
    grown = DraftTree(tree.tokens[:1])
    places = {ROOT: -1}  # node of `grown` -> its place in `seen`
    for _ in range(most_depth):
        level = []
        for survival, node in beam:
            if node != ROOT and grown.tokens[node] in end_tokens:
                continue
            for child in expand(node):
                reached = survival * child[0]
                if reached > 0.0 and reached >= plan.min_survival:
                    level.append((reached, node, child))
        level.sort(key=score_of, reverse=True)
        beam = []
        for rank, (reached, parent, child) in enumerate(level):
            seen.append((reached, parent, len(seen), child))
            if rank < plan.beam:
                node = add(parent, child)  # grows `tree`, which is cut below
                grown.add(parent, child[1], child[2], child[3], reached)
                places[node] = len(seen) - 1
                beam.append((reached, node))
        if not beam:
            break
    _keep_best(tree, plan.max_nodes, seen, places)


def _keep_best(
    tree: DraftTree,
    most: int,
    seen: Sequence[tuple[float, int, int, Child]],
    places: dict[int, int],
) -> None:
    """Makes the tree that of the best nodes seen. A parent survives at least as well as its children, so it stays."""
    order = sorted(seen, key=lambda item: (-item[0], item[2]))[:most]
    node_of = {place: node for node, place in places.items()}
    tree.cut(1)
    renamed = {ROOT: ROOT}
    for reached, parent, place, (_, token, source, cell) in order:
        node = tree.add(renamed[parent], token, source, cell, reached)
        if place in node_of:
            renamed[node_of[place]] = node


def _fixed(
    tree: DraftTree, plan: TreePlan, most_depth: int, expand: Expand, add: Add, end_tokens: frozenset[int]
) -> None:
    """A shape that is given: so many children for the first, the second, ... node of each depth (Token Recycling)."""
    level = [ROOT]
    for numbers in plan.children[:most_depth]:
        below: list[int] = []
        for node, number in zip(level, numbers, strict=False):
            if tree.tokens[node] in end_tokens and node != ROOT:
                continue
            for child in islice(expand(node), number):
                if tree.num_drafted >= plan.max_nodes:
                    return
                below.append(add(node, child))
        level = below


_GROWTHS: dict[str, Callable[[DraftTree, TreePlan, int, Expand, Add, frozenset[int]], None]] = {
    "best_first": _best_first,
    "eagle2": _eagle2,
    "fixed": _fixed,
}


def score_of(child: tuple[float, Any, Any, Any] | tuple[float, Any, Any]) -> float:
    """What candidates are sorted by."""
    return child[0]
