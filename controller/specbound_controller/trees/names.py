"""Names of the fixed tree settings. Imports nothing, so that `--help` is fast."""

TREE_NAMES = (
    "free_tree",
    "chain4",
    "chain8",
    "tree3",
    "tree7",
    "tree15",
    "tree31",
    "tree63",
    "eagle2",
    "token_recycling",
)
"""Trees of a fixed number of nodes grown best first, chains of the same sources, rules of others; `free_tree` chooses
the number by price."""
