"""A draft tree: pending tokens that share their beginnings, and the path through them that turned out right."""

from collections.abc import Sequence
from dataclasses import dataclass, field

ROOT = 0
"""The node of the last committed token, which is no draft."""


@dataclass(slots=True)
class DraftTree:
    """Nodes in the order in which they were added: every parent stands before its children. Node 0 is the root."""

    tokens: list[int]
    parents: list[int] = field(default_factory=lambda: [-1])
    """-1 for the root."""
    depths: list[int] = field(default_factory=lambda: [0])
    """Nodes between a node and the root, itself included; 0 for the root."""
    sources: list[str] = field(default_factory=lambda: [""])
    """Name of what proposed each node; empty for the root."""
    cells: list[int] = field(default_factory=lambda: [-1])
    """Cell of the source's acceptance rates that each node was scored by."""
    survivals: list[float] = field(default_factory=lambda: [1.0])
    """Expected chance that a node and all before it on its path are right."""

    @property
    def num_drafted(self) -> int:
        """Nodes less the root."""
        return len(self.tokens) - 1

    def is_chain(self, num_nodes: int) -> bool:
        """Whether the first nodes stand one after another, so that node k is the k-th draft token."""
        return self.parents[:num_nodes] == list(range(-1, num_nodes - 1))

    def add(self, parent: int, token: int, source: str, cell: int, survival: float) -> int:
        """A new child; gives its number."""
        self.tokens.append(token)
        self.parents.append(parent)
        self.depths.append(self.depths[parent] + 1)
        self.sources.append(source)
        self.cells.append(cell)
        self.survivals.append(survival)
        return len(self.tokens) - 1

    def cut(self, num_nodes: int) -> None:
        """Keeps so many nodes, the root included, from the first on: no kept node loses its parent."""
        for column in (self.tokens, self.parents, self.depths, self.sources, self.cells, self.survivals):
            del column[num_nodes:]

    def path(self, node: int) -> list[int]:
        """Nodes from the root to a node, both included."""
        nodes = [node]
        while nodes[-1] != ROOT:
            nodes.append(self.parents[nodes[-1]])
        return nodes[::-1]

    def child(self, node: int, token: int) -> int:
        """The child of a node that holds a token, -1 where there is none."""
        for other in range(node + 1, len(self.tokens)):
            if self.parents[other] == node and self.tokens[other] == token:
                return other
        return -1


def tree_of(parents: Sequence[int], tokens: Sequence[int]) -> DraftTree:
    """A tree of a given shape. parents: of every node, -1 first, each before its children; tokens: the root's first.

    Raises ValueError where a parent does not stand before its child, or two siblings hold one token.
    """
    if len(parents) != len(tokens) or list(parents[:1]) != [-1]:
        raise ValueError(f"parents must begin with -1 and be as many as tokens ({len(tokens)}), got {list(parents)}")
    tree = DraftTree([tokens[0]])
    for node, (parent, token) in enumerate(zip(parents[1:], tokens[1:], strict=True), start=1):
        if not 0 <= parent < node:
            raise ValueError(f"parent of node {node} must be in [0, {node - 1}], got {parent}")
        if tree.child(parent, token) >= 0:
            raise ValueError(f"children of node {parent} must hold different tokens, got {token} twice")
        tree.add(parent, token, "", -1, 1.0)
    return tree
