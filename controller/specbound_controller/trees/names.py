"""Names of the fixed tree settings. Imports next to nothing, so that `--help` is fast."""

import re

EXIT_TREE = re.compile(r"exit([1-9]\d{0,3})_tree([1-9]\d?)")
"""Names of trees that an exit drafts too: its layer, and most nodes."""
LEFT_OUT = ("context", "own_text", "recycled", "bigrams")
"""Sources that `TREE_without_SOURCE` leaves out: what each of them brings."""
TREE_NAMES = (
    "free_tree",
    "chain4",
    "chain8",
    "tree2",
    "tree3",
    "tree5",
    "tree7",
    "tree15",
    "tree31",
    "tree63",
    "eagle2",
    "token_recycling",
)
"""Trees of a fixed number of nodes grown best first, chains of the same sources, rules of others; `free_tree` chooses
the number by price."""

TUNED_TREES = ("tuned_tree", "tuned_eagle2", "tuned_recycling", "priced_tree")
"""Trees whose constants `specbound tune` chooses: best first with so many nodes, EAGLE-2's beam, Token Recycling's
shape, and best first with nodes that must pay."""
LEARNED_TREE = "learned_tree"
"""Best first by the node score that a controller holds, with nodes that must pay."""
BEST_TREE = "best_tree"
"""The fastest of some of them."""
FREE_ENTRANTS = ("chain4", "tree2", "tree3", "tree7", "tree15", "free_tree")
"""Trees of sources that cost no layer, from which the fastest is chosen."""


def is_tree_name(name: str) -> bool:
    """Whether a tree setting has this name."""
    whole, left_out = without(name)
    if left_out not in (None, *LEFT_OUT):
        return False
    return whole in TREE_NAMES or EXIT_TREE.fullmatch(whole) is not None


def drafts_trees(name: str) -> bool:
    """Whether a policy of this name drafts trees: a setting, one of a race, one that was tuned or learned."""
    return name in (BEST_TREE, LEARNED_TREE, *TUNED_TREES) or is_tree_name(name)


def without(name: str) -> tuple[str, str | None]:
    """The tree of a name, and the source that it is to do without: `tree7_without_bigrams`."""
    whole, found, left_out = name.partition("_without_")
    return whole, left_out if found else None
