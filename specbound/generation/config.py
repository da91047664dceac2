"""The config of `specbound generate`, and what it shares with `specbound chat`. Imports no torch: `--help` is fast."""

from dataclasses import dataclass
from pathlib import Path

from specbound.decoding.exactness import require_exactness
from specbound.decoding.sampling_config import SamplingConfig
from specbound.exits.option import ExitsOption
from specbound.models.names import chosen_controller
from specbound_controller.errors import InputError, require_at_least
from specbound_controller.policy_names import require_policy_name
from specbound_controller.text_files import is_unicode
from specbound_controller.trees.names import LEARNED_TREE, TREE_NAMES, is_tree_name


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig(SamplingConfig, ExitsOption):
    """A model, who drafts for it, and how long an output may be: what commands that write text have in common."""

    model: str = "demo"
    """demo, smollm2, a folder, a Hugging Face name, or a GGUF file."""
    controller: str | None = None
    """demo, a folder that train-controller wrote, a Hugging Face name, or none. By default demo for the demo model
    only."""
    policy: str = "auto"
    """Who drafts: auto (the controller where there is one; without one a tree of what costs no layer, guarded; plain
    where controller is none), plain, a folder that specbound fit wrote, a tree by name (free_tree, tree3 to tree63,
    chain4, chain8, eagle2, token_recycling, exitE_treeN), learned_tree (the controller's own trees), a guarded fixed
    setting such as static:lookup0.5+exit4,width2, or a class of your own, module:Class."""
    own_text: str | None = None
    """Folder that specbound write left for this model: its habits are one more source of a tree."""
    compression: str = "none"
    """How the weights are held: none, bf16, fp16, int8 or nf4."""
    costs: str = "auto"
    """What work costs here: auto (the controller's table if it is from this machine, else measured once, about 30 s),
    or a log's costs.json."""
    exactness: str = "token"
    """What the output equals: token (plain decoding's, rounding aside) or bitwise (plain decoding's at this level, for
    every compression, a little slower)."""
    compile: bool = False
    """On a GPU, at exactness token: capture the layers' work as CUDA graphs, which are launched at once."""
    max_new_tokens: int = 128
    """Most tokens to generate, at least 1."""
    stop: tuple[str, ...] = ()
    """End after this text; may be given several times."""
    threads: int = 1
    """CPU threads."""

    def __post_init__(self) -> None:
        SamplingConfig.__post_init__(self)
        require_at_least(1, max_new_tokens=self.max_new_tokens, threads=self.threads)
        require_exactness(self.exactness)
        if "" in self.stop:
            raise InputError("stop must hold text, got none")
        if not is_unicode("".join(self.stop)):
            raise InputError("stop must be text in the terminal's encoding, got half of a character")
        if not self.is_folder:
            require_policy_name(self.policy, ("auto", "plain", "a folder of specbound fit", *TREE_NAMES, LEARNED_TREE))
        if self.policy == LEARNED_TREE and self.controller_name == "none":
            raise InputError(f"policy {LEARNED_TREE} needs a controller, a folder that train-controller wrote")
        if self.policy not in ("auto", LEARNED_TREE) and self.controller not in (None, "none"):
            raise InputError(f"policy must be auto where a controller is given, got {self.policy!r}")
        if self.own_text is not None and not (is_tree_name(self.method) or self.method in ("controller", LEARNED_TREE)):
            raise InputError(f"own_text is read by trees only, got policy {self.method}")

    @property
    def controller_name(self) -> str:
        """The controller to use, its default resolved."""
        return chosen_controller(self.controller, self.model)

    @property
    def is_folder(self) -> bool:
        """Whether the policy is what a folder on disk, or of the Hub, holds."""
        return "/" in self.policy or self.policy.startswith("hf:") or Path(self.policy).expanduser().is_dir()

    @property
    def method(self) -> str:
        """Who drafts, resolved: `controller`, `plain`, or another policy's name."""
        if self.policy != "auto":
            return self.policy
        if self.controller_name != "none":
            return "controller"
        return "plain" if self.controller == "none" else "free_tree"


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateConfig(DecoderConfig):
    """Continues a text, with drafts or plainly; the output is the same."""

    prompt: str | None = None
    """The text to continue, required; - reads it from standard input. Where the tokenizer has a chat
    template, a message."""
    chat: bool = False
    """The prompt is a message, and a model without a chat template is refused; --chat "TEXT" is --chat --prompt "TEXT".
    A whole conversation: specbound chat."""
    raw: bool = False
    """Hand the prompt over as it stands. Otherwise it goes through the chat template, where the tokenizer has one."""
    stream: bool = False
    """Print the tokens as they are committed."""
    compare: bool = False
    """Decode plainly too, print both speeds and whether the outputs are equal."""
    json: str | None = None
    """File for the results as JSON; - is standard output, where the text is left out."""

    def __post_init__(self) -> None:
        DecoderConfig.__post_init__(self)
        if self.prompt is None:
            raise InputError("--prompt is required; see specbound generate --help; specbound chat holds a conversation")
        if self.chat and self.raw:
            raise InputError("chat and raw must not be given together: one asks for the template, one for none")
        if self.stream and self.json == "-":
            raise InputError("stream must be off where json is -: both write to standard output")
        if self.compare and self.method == "plain":
            raise InputError(
                "compare needs drafts beside plain decoding, got controller none or policy plain: give --policy "
                "free_tree, which needs no training, or a --controller of this model (specbound fit makes one)"
            )
