"""What a policy says of a step's draft tree: sources, sizes, how to grow, and what nodes cost in tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from specbound_controller.sources.stores import Stores
from specbound_controller.trees.node_score import NodeScore

GROWTHS = ("best_first", "eagle2", "fixed")
"""How nodes are chosen: best first by survival; EAGLE-2's beam (2406.16858); fixed numbers of children by rank."""

Rates = Mapping[str, Sequence[float]]
"""Source -> acceptance rate of each of its cells."""


@dataclass(frozen=True, slots=True)
class TreePlan:
    """Bounds and rules of one step's tree."""

    max_nodes: int
    """Most draft tokens in the tree, the root left out; 0 is plain decoding."""
    rates: Rates = field(default_factory=dict)
    """What the score of a candidate is read from; its sources are asked in this order, no others."""
    stores: Stores = field(default_factory=Stores)
    """What sources share between sequences: the model's bigrams, its own text."""
    breadth: int = 8
    """Most children of a node; 1 is a chain."""
    max_depth: int = 16
    """Longest path below the root."""
    min_survival: float = 0.0
    """Nodes whose chance is expected to be lower are left out."""
    growth: str = "best_first"
    """One of `GROWTHS`."""
    beam: int = 8
    """EAGLE-2: nodes of one depth that get children."""
    children: Sequence[Sequence[int]] = ()
    """Fixed shape: for each depth, the children of each node of it, in the order in which they stand; nodes that are
    not listed get none."""
    exit_layer: int = 0
    """An early exit that drafts too; 0 is none. The root and the best nodes of each depth run so many layers, and the
    exit's best tokens join what the sources propose."""
    exit_breadth: int = 4
    """Most tokens that the exit proposes after a node."""
    exit_beam: int = 1
    """Most nodes of one depth that run to the exit, in one call."""
    exit_survival: float = 0.3
    """Least survival of a node that runs to the exit."""
    alpha: float = 0.0
    """Strength of the annealing (`AnnealedConfidence`) of the exit's probabilities, which are its tokens' scores."""
    node_costs: Sequence[float] = ()
    """What a tree of n nodes costs more than the root alone, in tokens of plain decoding, for n = 0 .. max_nodes. The
    tree is cut where expected tokens less cost is largest; empty: nodes cost nothing."""
    shared_costs: Sequence[float] = ()
    """The same for n nodes of all rows of a batch together, more than their roots alone: the batch then cuts its trees
    together, in place of `node_costs`."""
    score: NodeScore | None = None
    """A learned score, which takes the place of the rates."""

    def __post_init__(self) -> None:
        if self.max_nodes < 0 or self.breadth < 1 or self.max_depth < 1:
            raise ValueError(
                f"max_nodes must be >= 0, breadth and max_depth >= 1, got {self.max_nodes}, {self.breadth}, "
                f"{self.max_depth}"
            )
        if self.growth not in GROWTHS:
            raise ValueError(f"growth must be one of {', '.join(GROWTHS)}, got {self.growth!r}")
        if self.exit_layer < 0 or self.exit_breadth < 1 or self.exit_beam < 1:
            raise ValueError(
                f"exit_layer must be >= 0, exit_breadth and exit_beam >= 1, got {self.exit_layer}, "
                f"{self.exit_breadth}, {self.exit_beam}"
            )
        if self.exit_layer > 0 and self.growth != "best_first":
            raise ValueError(f"growth must be best_first where an exit drafts, got {self.growth!r}")
        if self.score is not None and (self.exit_layer > 0 or not set(self.rates) <= set(self.score.sources)):
            raise ValueError(
                f"score knows candidates of {', '.join(self.score.sources)} alone, got exit_layer {self.exit_layer} "
                f"and sources {', '.join(self.rates)}"
            )
        if self.node_costs and len(self.node_costs) != self.max_nodes + 1:
            raise ValueError(f"node_costs must be {self.max_nodes + 1} numbers, got {len(self.node_costs)}")
