"""The config of `specbound evaluate`. Imports no torch, so that `--help` is fast."""

from dataclasses import dataclass
from typing import Literal

from specbound.decoding.exactness import EXACTNESS_LEVELS
from specbound.decoding.sampling_config import SamplingConfig
from specbound.exits.option import ExitsOption
from specbound.models.names import chosen_controller
from specbound_controller.baselines import BASELINES
from specbound_controller.compression import COMPRESSIONS
from specbound_controller.errors import InputError, require_at_least, require_one_of
from specbound_controller.policy_names import rejoined, require_policy_name
from specbound_controller.trees.names import BEST_TREE, LEARNED_TREE, TREE_NAMES, TUNED_TREES
from specbound_profiling.prompts.files import other_prompts

RACED_POLICIES = ("best_static", "best_static_annealed")
"""One action at every step, chosen by a race on tuning prompts."""
FIXED_POLICIES = (*RACED_POLICIES, "best_static_learned")
"""One action at every step."""
EVALUATED_POLICIES = (*FIXED_POLICIES, "controller", *BASELINES)
"""Policies that `specbound evaluate` knows besides plain decoding, in the order of its tables."""


@dataclass(frozen=True, slots=True)
class EvaluateConfig(SamplingConfig, ExitsOption):
    """Measures what decoding with a controller is worth: against plain decoding, transformers' generate, the best fixed
    setting, other systems' rules and the clairvoyant limit, on prompts that nothing was chosen on."""

    model: str = "demo"
    """demo, smollm2, a folder, a Hugging Face name, or a GGUF file."""
    controller: str | None = None
    """demo, a folder that train-controller wrote, or none. By default demo for the demo model only."""
    prompts: str = "demo:evaluate"
    """demo:evaluate, demo (which the demo controller was trained on), FILE.jsonl, or hf:NAME[:split[:column]]."""
    raw: bool = False
    """Hand prompts over as they stand. Otherwise they go through the chat template, where the tokenizer has one."""
    num_prompts: int | None = None
    """Prompts to take, spread evenly over the tasks; default: all."""
    max_new_tokens: int = 96
    """Most tokens per prompt, at least 2; a text that begins to loop is cut there, for all methods alike."""
    compression: tuple[str, ...] = ("none",)
    """How the weights are held, one or several: none, bf16, fp16, int8, nf4."""
    exactness: str = "auto"
    """Kernels of plain decoding and of all policies: token (the model's own), bitwise (row-stable: equal outputs at any
    compression), or auto: token for none, bitwise for all other levels."""
    policies: str | None = None
    """File with the constants of other systems' rules, tuned on training prompts."""
    policy: Literal["auto"] | tuple[str, ...] = "auto"
    """One or several of best_static, best_static_annealed, best_static_learned, controller, from the file {BASELINES},
    draft trees: best_tree, the fastest of some on the tuning prompts, learned_tree, by the controller's score of nodes,
    {TREE_NAMES}, exitE_treeN; guarded fixed settings
    such as static:lookup0.5+exit4,width2; and classes of your own, module:Class. auto: those that need no name written
    out, but trees."""
    tuning_prompts: str | None = None
    """Other prompts, the same forms, on which the best fixed setting is chosen: the best 16 by replay race each other.
    By default FILE:tuning for FILE:evaluation, the demonstration's other set for demo, else training."""
    num_tuning_prompts: int = 24
    """Of these, spread over the kinds of content, at least 1."""
    tuning_tokens: int = 48
    """Most tokens for each tuning prompt, at least 8."""
    costs: str = "auto"
    """What work costs here: auto (the controller's table if it is from this machine, else measured once, about 30 s),
    or a log's costs.json."""
    w_max: int = 8
    """Longest draft that the oracles may issue, at least 1."""
    rounds: int = 3
    """Times that every method decodes every prompt; medians count. At least 1."""
    until: float | None = None
    """Begin no further round once the 95 % interval of the controller's speed over the best fixed setting's (without a
    controller: of the fastest policy over plain decoding) is no wider than so much on either side, such as 0.02; in
    (0, 1]. --rounds is the most."""
    decision_prompts: int = 6
    """Prompts that policies decode once more with a stopwatch inside, for the time that decisions take; 0 leaves it
    out."""
    allow_noise: bool = False
    """Show speedups, with a warning, also where the machine was busy with something else; otherwise fail."""
    threads: int = 1
    """CPU threads."""
    by_kind: bool = False
    """Show every kind of content also where there are more than six; files always hold all."""
    out: str | None = None
    """Folder for evaluate.json, evaluate.md and evaluate.html (needs the extra report)."""
    json: str | None = None
    """File for the results as JSON; - is standard output, where the tables are left out."""

    def __post_init__(self) -> None:
        SamplingConfig.__post_init__(self)
        if self.policy != "auto":
            object.__setattr__(self, "policy", rejoined(self.policy))
        require_at_least(2, max_new_tokens=self.max_new_tokens)
        require_at_least(8, tuning_tokens=self.tuning_tokens)
        require_at_least(1, rounds=self.rounds, w_max=self.w_max, threads=self.threads)
        require_at_least(1, num_tuning_prompts=self.num_tuning_prompts)
        require_at_least(0, decision_prompts=self.decision_prompts)
        if self.num_prompts is not None:
            require_at_least(1, num_prompts=self.num_prompts)
        if self.until is not None and not 0 < self.until <= 1:
            raise InputError(f"until must be in (0, 1], got {self.until}")
        require_one_of(("auto", *EXACTNESS_LEVELS), exactness=self.exactness)
        for level in self.compression:
            require_one_of(COMPRESSIONS, compression=level)
        if not self.compression or not self.policy:
            raise InputError("compression and policy must name at least one, got none")
        if len(set(self.compression)) < len(self.compression):
            raise InputError(f"compression must not repeat a level, got {','.join(self.compression)}")
        for policy in self.asked:
            require_policy_name(policy, (*EVALUATED_POLICIES, BEST_TREE, LEARNED_TREE, *TUNED_TREES, *TREE_NAMES))
            if policy in BASELINES and self.policies is None:
                raise InputError(f"policy {policy} needs --policies, a file with its constants")
        if self.tuning_source == self.prompts:
            raise InputError(f"tuning_prompts must be other prompts than prompts, got {self.prompts} for both")
        for policy in {"controller", LEARNED_TREE} & set(self.asked):
            if self.controller_name == "none":
                raise InputError(f"policy {policy} needs a controller, got controller none")

    @property
    def asked(self) -> tuple[str, ...]:
        """The policies that were named; none where all are wanted that there are."""
        return () if self.policy == "auto" else tuple(dict.fromkeys(self.policy))

    @property
    def tuning_source(self) -> str:
        """The tuning prompts, the default resolved."""
        return other_prompts(self.prompts) if self.tuning_prompts is None else self.tuning_prompts

    @property
    def controller_name(self) -> str:
        """The controller to use, its default resolved."""
        return chosen_controller(self.controller, self.model)

    def exactness_of(self, compression: str) -> str:
        """The level of exactness of a compression level, the default resolved."""
        if self.exactness != "auto":
            return self.exactness
        return "token" if compression == "none" else "bitwise"
