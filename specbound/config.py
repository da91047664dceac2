"""The configs of the commands that live in this package. Imports no torch, so that `--help` is fast."""

from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True, slots=True)
class GenerateConfig:
    """Continues a text, with a controller or plainly; the output is the same."""

    prompt: str
    """The text to continue; - reads it from standard input."""
    model: str = "demo"
    """demo, a folder, or a Hugging Face name."""
    controller: str | None = None
    """demo, a folder that train-controller wrote, or none: plain decoding. By default demo for the demo model only."""
    compression: str = "none"
    """How the weights are held: none, bf16, fp16, int8 or nf4."""
    costs: str = "auto"
    """What work costs here: auto (the controller's table if it is from this machine, else measured once, about 30 s),
    or a log's costs.json."""
    max_new_tokens: int = 128
    """Most tokens to generate, at least 1."""
    stream: bool = False
    """Print the tokens as they are committed."""
    compare: bool = False
    """Decode plainly too, print both speeds and whether the outputs are equal."""
    threads: int = 1
    """CPU threads."""
    json: str | None = None
    """File for the results as JSON; - is standard output, where the text is left out."""

    def __post_init__(self) -> None:
        require_at_least(1, max_new_tokens=self.max_new_tokens, threads=self.threads)
        if self.stream and self.json == "-":
            raise InputError("stream must be off where json is -: both write to standard output")
        if self.compare and self.controller_name == "none":
            raise InputError("compare needs a controller beside plain decoding, got controller none")

    @property
    def controller_name(self) -> str:
        """The controller to use, its default resolved."""
        if self.controller is not None:
            return self.controller
        return "demo" if self.model == "demo" else "none"


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
