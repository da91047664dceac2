"""The config of `specbound replay`. Imports no torch, so that `--help` is fast."""

from dataclasses import dataclass
from typing import Literal

from specbound.exits.option import ExitsOption
from specbound_controller.baselines import BASELINES
from specbound_controller.compression import COMPRESSIONS
from specbound_controller.errors import InputError, require_at_least, require_one_of
from specbound_controller.policy_names import rejoined, require_policy_name
from specbound_controller.trees.names import BEST_TREE, LEARNED_TREE, TUNED_TREES

TUNED_POLICIES = ("best_static_annealed", *BASELINES, *TUNED_TREES)
"""Those that need a file of settings."""
REPLAYED_POLICIES = (
    *("plain", "static", "best_static", "best_static_learned", "controller"),
    *TUNED_POLICIES,
    *("random", "oracle", "oracle_grid", "oracle_tree", BEST_TREE, LEARNED_TREE),
)
"""Policies that `specbound replay` knows beside the names of trees; `specbound.analysis.replay` says what they are."""


@dataclass(frozen=True, slots=True)
class ReplayConfig(ExitsOption):
    """Says what policies would have done on a log that specbound profile wrote, and the best that any could do, without
    running the model. With --speckv: the same questions asked of SpecKV's released step log."""

    log: str | None = None
    """Folder of a log that specbound profile wrote; required but for --speckv."""
    costs: str = "log"
    """What work costs: log (the log's own table), auto (the log's where it is from this machine, else one that was
    measured here before, else one measured now, about 30 s), or a costs.json."""
    policy: Literal["auto"] | tuple[str, ...] = "auto"
    """One or several of plain, static (the action given below), best_static (the fastest fixed action: that of the file
    of policies, else searched on this log), controller, best_static_learned (its score at one fixed action), random
    (another action at every step), oracle and oracle_grid (clairvoyant: the limit), and from the file of policies
    {TUNED_POLICIES}; fixed settings such as static:lookup0.5+exit4,width2; classes of your own, module:Class.
    Draft trees by name: best_tree (the fastest of six, searched on this log), free_tree, tree7, eagle2, ...
    (docs/trees.md), and oracle_tree (clairvoyant: the limit of trees of sources that run no layer),
    learned_tree (by the controller's score of nodes).
    auto: plain, best_static, all of the file where there is one, the controller and its learned_tree, free_tree, the
    limits."""
    policies: str | None = None
    """File that specbound tune wrote: the settings of the policies of the literature, and of best_static."""
    controller: str | None = None
    """demo, a folder that train-controller wrote, or none. By default demo for a log of the demo model only."""
    compression: Literal["auto"] | tuple[str, ...] = "auto"
    """Levels of the log to replay: auto is all of them."""
    exit_layers: tuple[int, ...] = ()
    """Exit layers of the policy static."""
    width: int = 4
    """Its longest draft, at least 0."""
    threshold: float = 0.0
    """What its exits' annealed confidence must reach, in [0, 1]; 0 drafts without a test."""
    combine: str = "token"
    """What is compared with the threshold: token (each token's confidence) or product (the whole draft's)."""
    alpha: float = 0.0
    """Strength of annealing, of static and in the search for best_static; at least 0."""
    w_max: int = 8
    """Longest draft of best_static, random and the oracles, at least 1."""
    live: int = 0
    """Decode so many of the log's prompts with the real decoder too, and compare; 0 runs no model."""
    save_steps: bool = False
    """Keep the steps of this live decoding in the log, under steps/, in place of earlier ones of the same policies;
    specbound report then shows how far their scores could be trusted."""
    seed: int = 0
    """Seed of random and of the bootstrap."""
    speckv: str | None = None
    """SpecKV's phase2_step_results.csv: its published table, and what it leaves out."""
    speckv_clock: str | None = None
    """Its phase2_experiment_results.csv, for tokens per second and the split by prompt."""
    threads: int = 1
    """CPU threads of live decoding."""
    by_kind: bool = False
    """Show every kind of content also where there are more than six; the JSON always holds all."""
    json: str | None = None
    """File for the results as JSON; - is standard output, where the tables are left out."""

    def __post_init__(self) -> None:
        if self.policy != "auto":
            object.__setattr__(self, "policy", rejoined(self.policy))
        require_at_least(0, width=self.width, live=self.live, seed=self.seed)
        require_at_least(1, w_max=self.w_max, threads=self.threads)
        if self.speckv_clock is not None and self.speckv is None:
            raise InputError("speckv_clock needs speckv, the step log that it belongs to")
        if (self.log is None) == (self.speckv is None):
            raise InputError("--log or --speckv is required, and only one of them; see specbound replay --help")
        if self.save_steps and not self.live:
            raise InputError("save_steps keeps live steps, and needs live, the number of prompts to decode")
        for policy in () if self.policy == "auto" else self.policy:
            require_policy_name(policy, REPLAYED_POLICIES)
        for level in () if self.compression == "auto" else self.compression:
            require_one_of(COMPRESSIONS, compression=level)
        if not self.policy or not self.compression:
            raise InputError("policy and compression must name at least one, got none")
        if "static" in self.policy and not self.exit_layers:
            raise InputError("policy static needs exit_layers, and takes width, threshold and alpha")
        for policy in () if self.policies is not None else TUNED_POLICIES:
            if policy in self.policy:
                raise InputError(f"policy {policy} needs policies, a file that specbound tune wrote")
        if self.exit_layers and "static" not in self.policy:
            raise InputError(f"exit_layers belong to the policy static, got policy {self.policy!r}")
        require_one_of(("token", "product"), combine=self.combine)
        if not 0 <= self.threshold <= 1:
            raise InputError(f"threshold must be in [0, 1], got {self.threshold}")
        if not self.alpha >= 0:
            raise InputError(f"alpha must be >= 0, got {self.alpha}")
