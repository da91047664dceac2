"""The configs of the commands that live in this package. Imports no torch, so that `--help` is fast."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from specbound.decoding.exactness import require_exactness
from specbound_controller.compression import COMPRESSIONS
from specbound_controller.errors import InputError


def shipped_config(name: str) -> Path:
    """A YAML file of `configs/`: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    in_wheel = package / "configs" / name
    return in_wheel if in_wheel.exists() else package.parent / "configs" / name


def require_at_least(least: int, **values: int) -> None:
    """Raises InputError that names the first value below `least`."""
    for name, value in values.items():
        if value < least:
            raise InputError(f"{name} must be >= {least}, got {value}")


def require_one_of(known: Sequence[str], **values: str) -> None:
    """Raises InputError that names the first value that is not known."""
    for name, value in values.items():
        if value not in known:
            raise InputError(f"{name} must be one of {', '.join(known)}, got {value!r}")


VERIFIED_POLICIES = ("controller", "static", "layerskip", "random")
"""Policies that `specbound verify` knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingConfig:
    """How the next token is chosen: greedily unless asked otherwise."""

    sample: bool = False
    """Draw tokens at random instead of taking the most probable ones."""
    temperature: float = 1.0
    """Divides the logits before sampling; above 0."""
    top_k: int = 0
    """Sample among so many of the most probable tokens; 0 keeps all."""
    top_p: float = 1.0
    """Sample among the most probable tokens that hold this much probability together; above 0, at most 1."""
    seed: int = 0
    """Seed of sampling: the same seed gives the same text, with drafts or without."""

    def __post_init__(self) -> None:
        require_at_least(0, top_k=self.top_k)
        if self.temperature <= 0:
            raise InputError(f"temperature must be > 0, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if not self.sample and (self.temperature, self.top_k, self.top_p) != (1.0, 0, 1.0):
            raise InputError("temperature, top_k and top_p need sample: without it the most probable token is taken")

    def generate_arguments(self) -> dict[str, Any]:
        """The arguments of the decoder that these settings stand for."""
        if not self.sample:
            return {"do_sample": False}
        return {
            "do_sample": True,
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "seed": self.seed,
        }


@dataclass(frozen=True, slots=True)
class GenerateConfig(SamplingConfig):
    """Continues a text, with a controller or plainly; the output is the same."""

    prompt: str | None = None
    """The text to continue, required; - reads it from standard input. With --chat a message, and by default every line
    of standard input is one."""
    model: str = "demo"
    """demo, a folder, or a Hugging Face name."""
    controller: str | None = None
    """demo, a folder that train-controller wrote, a Hugging Face name, or none: plain decoding. By default demo for the
    demo model only."""
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
    chat: bool = False
    """Hand the prompt to the model as a user's message, by the chat template of its tokenizer."""
    stream: bool = False
    """Print the tokens as they are committed."""
    compare: bool = False
    """Decode plainly too, print both speeds and whether the outputs are equal."""
    threads: int = 1
    """CPU threads."""
    json: str | None = None
    """File for the results as JSON; - is standard output, where the text is left out."""

    def __post_init__(self) -> None:
        SamplingConfig.__post_init__(self)
        require_at_least(1, max_new_tokens=self.max_new_tokens, threads=self.threads)
        require_exactness(self.exactness)
        if self.prompt is None and not self.chat:
            raise InputError("--prompt is required; see specbound generate --help")
        if self.is_conversation and (self.compare or self.json is not None):
            raise InputError("compare and json need a single message: give --prompt")
        if "" in self.stop:
            raise InputError("stop must hold text, got none")
        if self.stream and self.json == "-":
            raise InputError("stream must be off where json is -: both write to standard output")
        if self.compare and self.controller_name == "none":
            raise InputError("compare needs a controller beside plain decoding, got controller none")

    @property
    def controller_name(self) -> str:
        """The controller to use, its default resolved."""
        return chosen_controller(self.controller, self.model)

    @property
    def is_conversation(self) -> bool:
        """Whether messages are read from standard input, one by one."""
        return self.chat and self.prompt in (None, "-")


def chosen_controller(controller: str | None, model: str) -> str:
    """The controller to use: by default the demonstration model's own, and none for other models."""
    if controller is not None:
        return controller
    return "demo" if model == "demo" else "none"


@dataclass(frozen=True, slots=True)
class VerifyConfig(SamplingConfig):
    """Decodes prompts plainly and with drafts, and compares the outputs token by token. Exit code 1 on a difference
    that rounding does not explain."""

    model: str = "demo"
    """demo, a folder, or a Hugging Face name."""
    prompts: str = "demo:evaluate"
    """demo, demo:evaluate, FILE.jsonl, or hf:NAME[:split[:column]]."""
    num_prompts: int = 8
    """Prompts to decode, spread over the kinds of content, at least 1."""
    controller: str | None = None
    """demo, a folder that train-controller wrote, a Hugging Face name, or none. By default demo for the demo model
    only."""
    policy: Literal["auto"] | tuple[str, ...] = "auto"
    """Who drafts, one or several: controller, static (thresholds on annealed confidence), layerskip (a fixed draft),
    random (other exits, thresholds and widths at every step). auto: the controller, or layerskip without one, and
    random."""
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
        require_at_least(1, num_prompts=self.num_prompts, max_new_tokens=self.max_new_tokens, threads=self.threads)
        require_exactness(self.exactness)
        for policy in () if self.policy == "auto" else self.policy:
            require_one_of(VERIFIED_POLICIES, policy=policy)
        for level in self.compression:
            require_one_of(COMPRESSIONS, compression=level)
        if not self.compression or not self.policy:
            raise InputError("compression and policy must name at least one, got none")
        if "controller" in self.policies and self.controller_name == "none":
            raise InputError("policy controller needs a controller, got controller none")

    @property
    def controller_name(self) -> str:
        """The controller to use, its default resolved."""
        return chosen_controller(self.controller, self.model)

    @property
    def policies(self) -> tuple[str, ...]:
        """The policies to verify, the default resolved."""
        if self.policy != "auto":
            return self.policy
        return ("layerskip" if self.controller_name == "none" else "controller", "random")


@dataclass(frozen=True, slots=True)
class DemoConfig:
    """Profiles a model, trains a controller on the log, and times it against plain decoding. --quick takes the sizes
    of configs/demo_quick.yaml: one minute instead of a few.

    The sizes have no defaults here: configs/demo.yaml holds them.
    """

    num_profile_prompts: int
    """Prompts to profile and train on, at least 2, spread over the kinds of content."""
    num_evaluation_prompts: int
    """Other prompts to decode and time, at least 1, spread over the kinds of content."""
    max_new_tokens: int
    """Most tokens per prompt, at least 8."""
    num_cost_steps: int
    """Decoding steps that the cost table is measured on, at least 30."""
    num_rounds: int
    """Times that every method decodes every evaluation prompt; medians count. At least 1."""
    allow_noise: bool
    """Print speeds, with a warning, also where the machine was busy with something else; otherwise fail."""
    model: str = "demo"
    """demo, a folder, or a Hugging Face name."""
    profile_prompts: str = "demo"
    """Prompts to profile and train on: demo, FILE.jsonl, or hf:NAME[:split[:column]]."""
    evaluation_prompts: str = "demo:evaluate"
    """Prompts to decode and time, the same forms."""
    w_max: int = 8
    """Longest draft that the oracle may issue, at least 1."""
    threads: int = 1
    """CPU threads."""
    seed: int = 0
    """Seed of training and of the bootstrap."""
    out: str | None = None
    """Folder for the logs and the controller; by default a temporary one, removed at the end."""
    json: str | None = None
    """File for the results as JSON; - is standard output, where the table is left out."""

    def __post_init__(self) -> None:
        require_at_least(2, num_profile_prompts=self.num_profile_prompts)
        require_at_least(8, max_new_tokens=self.max_new_tokens)
        require_at_least(30, num_cost_steps=self.num_cost_steps)
        require_at_least(
            1,
            num_evaluation_prompts=self.num_evaluation_prompts,
            num_rounds=self.num_rounds,
            w_max=self.w_max,
            threads=self.threads,
        )
