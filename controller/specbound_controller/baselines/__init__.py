"""Baselines of the literature as policies of the same loop, each with settings that can be stored as plain numbers.

Knows no model and no log; whoever has a log chooses the settings. A new policy is its module and a line here.
"""

BASELINES = {
    "layerskip": "fixed:LayerSkipSettings",
    "draft_verify": "draft_verify:DraftVerifySettings",
    "svip": "svip:SvipSettings",
    "gammatune": "lengths:GammaTuneSettings",
    "hf_heuristic": "lengths:HeuristicSettings",
    "logistic": "logistic:LogisticSettings",
    "speckv": "speckv:SpecKVSettings",
    "speckv_causal": "speckv:SpecKVSettings",
    "ucb": "ucb:UcbSettings",
}
"""Name, as a policy and as a method of a report, in the order of the tables -> module:class of its settings."""
