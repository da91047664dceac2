"""Constants of draft trees that can be tuned and stored as plain numbers: EAGLE-2's beam, Token Recycling's shape,
trees of a fixed number of nodes, and trees whose nodes must pay at a price of time.

Knows no log; whoever has one chooses.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from specbound_controller.costs import CostTable
from specbound_controller.sources.stores import Stores
from specbound_controller.trees.names import TUNED_TREES
from specbound_controller.trees.node_score import NodeScore
from specbound_controller.trees.plan import GROWTHS, Rates, TreePlan
from specbound_controller.trees.policy import TreePolicy
from specbound_controller.trees.priced import row_seconds

MOST_NODES = 31
"""Most draft tokens of any candidate."""
SIZES = (3, 5, 7, 11, 15, 23, 31)
SHAPES = (
    ((8,), (4, 2, 1, 1), (3, 2, 1, 1), (2, 1, 1), (1, 1)),
    ((6,), (3, 1, 1), (2, 1), (1,)),
    ((4,), (3, 1, 1), (2, 1), (1, 1), (1,), (1,)),
    ((4,), (2, 1), (1, 1), (1,)),
    ((2,), (2, 1), (1, 1), (1,), (1,)),
    ((2,), (1,), (1,), (1,)),
    ((1,), (1,), (1,), (1,)),
)
"""Children by rank, many to few, after Token Recycling (arXiv 2408.08696)."""
RECYCLING_SOURCES = ("recycled", "bigrams")


@dataclass(frozen=True, slots=True)
class TreeSources:
    """What a stored setting is made a policy with."""

    stores: Stores = field(default_factory=Stores)
    rates: Rates = field(default_factory=dict)
    """Of the sources that there are."""
    score: NodeScore | None = None
    """A learned score in place of the rates; its sources alone are asked."""


@dataclass(frozen=True, slots=True)
class TreeSettings:
    """One tree at every step."""

    growth: str
    """How nodes are chosen: one of `GROWTHS`."""
    max_nodes: int
    breadth: int
    max_depth: int
    beam: int
    """EAGLE-2: nodes of one depth that get children."""
    shape: tuple[tuple[int, ...], ...]
    """Fixed shape; empty for the others."""
    speedup: float
    """Speed over plain decoding at which a row's seconds are turned into tokens; 0: rows cost nothing."""

    def __post_init__(self) -> None:
        if self.growth not in GROWTHS:
            raise ValueError(f"growth must be one of {', '.join(GROWTHS)}, got {self.growth!r}")
        if not (0 < self.max_nodes <= 63 and self.breadth > 0 and self.max_depth > 0 and self.beam > 0):
            raise ValueError(
                f"max_nodes must be in [1, 63], breadth, max_depth and beam >= 1, got {self.max_nodes}, "
                f"{self.breadth}, {self.max_depth}, {self.beam}"
            )
        if self.speedup < 0:
            raise ValueError(f"speedup must be >= 0, got {self.speedup}")

    def plan(self, sources: TreeSources, costs: CostTable, num_layers: int) -> TreePlan:
        """The plan at the prices of a machine."""
        is_fixed = self.growth == "fixed"
        chosen = {name: rates for name, rates in sources.rates.items() if not is_fixed or name in RECYCLING_SOURCES}
        if sources.score is not None:
            chosen = {name: rates for name, rates in chosen.items() if name in sources.score.sources}
        node_costs: tuple[float, ...] = ()
        if self.speedup > 0:
            seconds = row_seconds(costs, num_layers, self.max_nodes)
            node_costs = tuple(((seconds - seconds[0]) / seconds[0] * self.speedup).tolist())
        return TreePlan(
            self.max_nodes,
            chosen,
            stores=sources.stores,
            breadth=self.breadth,
            max_depth=self.max_depth,
            growth=self.growth,
            beam=self.beam,
            children=self.shape,
            node_costs=node_costs,
            score=sources.score,
        )

    def policy(self, sources: TreeSources, costs: CostTable, num_layers: int) -> TreePolicy:
        """This tree at every step."""
        return TreePolicy(self.plan(sources, costs, num_layers))


def candidates(name: str) -> Iterable[TreeSettings]:
    """What a search may try of a rule by its name; `priced_tree` is priced at plain decoding's speed."""
    if name == "tuned_eagle2":
        return [
            TreeSettings("eagle2", size, breadth, depth, beam, (), 0.0)
            for size in SIZES[2:]
            for breadth, beam in ((4, 2), (8, 4), (8, 8))
            for depth in (3, 5, 8)
        ]
    if name == "tuned_recycling":
        return [TreeSettings("fixed", sum(map(sum, shape)), 8, len(shape), 1, shape, 0.0) for shape in SHAPES]
    if name == "tuned_tree":
        return [
            TreeSettings("best_first", size, b, d, 1, (), 0.0) for size in SIZES for b in (1, 3, 8) for d in (4, 16)
        ]
    if name == "priced_tree":
        sizes = (3, 7, MOST_NODES)  # chances of long paths are the least certain: a bound may pay where prices do not
        return [TreeSettings("best_first", size, breadth, 16, 1, (), 1.0) for size in sizes for breadth in (1, 8)]
    raise ValueError(f"name must be one of {', '.join(TUNED_TREES)}, got {name!r}")
