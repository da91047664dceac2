"""The config of `specbound demo`. Imports no torch, so that `--help` is fast."""

from dataclasses import dataclass

from specbound.exits.option import ExitsOption
from specbound_controller.errors import require_at_least


@dataclass(frozen=True, slots=True)
class DemoConfig(ExitsOption):
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
    """demo, smollm2, a folder, a Hugging Face name, or a GGUF file."""
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
        require_at_least(0, seed=self.seed)
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
