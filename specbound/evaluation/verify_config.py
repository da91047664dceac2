"""The config of `specbound verify`. Imports no torch, so that `--help` is fast."""

from dataclasses import dataclass
from typing import Literal

from specbound.decoding.exactness import require_exactness
from specbound.decoding.sampling_config import SamplingConfig
from specbound.exits.option import ExitsOption
from specbound.models.names import chosen_controller
from specbound_controller.compression import COMPRESSIONS
from specbound_controller.errors import InputError, require_at_least, require_one_of
from specbound_controller.policy_names import rejoined, require_policy_name
from specbound_controller.trees.names import LEARNED_TREE

VERIFIED_POLICIES = ("controller", LEARNED_TREE, "static", "layerskip", "random", "trees")
"""Policies that `specbound verify` knows."""


@dataclass(frozen=True, slots=True)
class VerifyConfig(SamplingConfig, ExitsOption):
    """Decodes prompts plainly and with drafts, and compares the outputs token by token. Exit code 1 on a difference
    that rounding does not explain."""

    model: str = "demo"
    """demo, smollm2, a folder, a Hugging Face name, or a GGUF file."""
    prompts: str = "demo:evaluate"
    """demo, demo:evaluate, FILE.jsonl, or hf:NAME[:split[:column]]."""
    raw: bool = False
    """Hand prompts over as they stand. Otherwise they go through the chat template, where the tokenizer has one."""
    num_prompts: int = 8
    """Prompts to decode, spread over the kinds of content, at least 1."""
    controller: str | None = None
    """demo, a folder that train-controller wrote, a Hugging Face name, or none. By default demo for the demo model
    only."""
    policy: Literal["auto"] | tuple[str, ...] = "auto"
    """Who drafts, one or several: controller, learned_tree (its draft trees), static (thresholds on annealed
    confidence), layerskip (a fixed draft), random (other exits, thresholds and widths at every step), trees (other
    draft trees at every step), fixed settings such as static:lookup0.5+exit4,width2, classes of your own, module:Class.
    auto: the controller, or layerskip without one, random and trees."""
    compression: tuple[str, ...] = ("none",)
    """How the weights are held, one or several: none, bf16, fp16, int8, nf4."""
    exactness: str = "token"
    """The promise to verify: token or bitwise, where any difference is a bug."""
    max_new_tokens: int = 96
    """Most tokens for each prompt, at least 1."""
    threads: int = 1
    """CPU threads."""
    json: str | None = None
    """File for the results as JSON; - is standard output, where the table is left out."""

    def __post_init__(self) -> None:
        SamplingConfig.__post_init__(self)
        if self.policy != "auto":
            object.__setattr__(self, "policy", rejoined(self.policy))
        require_at_least(1, num_prompts=self.num_prompts, max_new_tokens=self.max_new_tokens, threads=self.threads)
        require_exactness(self.exactness)
        for policy in () if self.policy == "auto" else self.policy:
            require_policy_name(policy, VERIFIED_POLICIES, has_trees=False)
        for level in self.compression:
            require_one_of(COMPRESSIONS, compression=level)
        if not self.compression or not self.policy:
            raise InputError("compression and policy must name at least one, got none")
        for policy in {"controller", LEARNED_TREE} & set(self.policies):
            if self.controller_name == "none":
                raise InputError(f"policy {policy} needs a controller, got controller none")

    @property
    def controller_name(self) -> str:
        """The controller to use, its default resolved."""
        return chosen_controller(self.controller, self.model)

    @property
    def policies(self) -> tuple[str, ...]:
        """The policies to verify, the default resolved."""
        if self.policy != "auto":
            return self.policy
        return ("layerskip" if self.controller_name == "none" else "controller", "random", "trees")
