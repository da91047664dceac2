"""Baselines of the literature as policies of the same loop, each with settings that can be stored as plain numbers.

Knows no model and no log; whoever has a log chooses the settings.
"""

BASELINES = (
    "layerskip",
    "draft_verify",
    "svip",
    "gammatune",
    "hf_heuristic",
    "logistic",
    "speckv",
    "speckv_causal",
    "ucb",
)
"""Their names, as policies and as methods of a report."""
