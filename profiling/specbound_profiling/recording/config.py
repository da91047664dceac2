"""The profiling stage's config. Imports no torch, so that `--help` is fast."""

from dataclasses import dataclass, field
from math import inf
from typing import Literal

from specbound.decoding.exactness import EXACTNESS_LEVELS
from specbound.decoding.sampling_config import SamplingConfig
from specbound.exits.option import ExitsOption
from specbound_controller.compression import COMPRESSIONS
from specbound_controller.draft_vocabulary import MIN_TOKENS
from specbound_controller.errors import InputError, require_one_of
from specbound_controller.lookup import LOOKUP_EXIT
from specbound_profiling.log.trace import DEFAULT_TEMPERATURES

NUM_STEPS = 300
"""Decoding steps that a cost table is measured on where nothing else is asked for."""


@dataclass(frozen=True, slots=True)
class ProfileConfig(SamplingConfig, ExitsOption):
    """Records how every exit layer agrees with the full model, measures what work costs here, and gives a verdict."""

    out: str
    """Folder for the log; one that holds an unfinished run of the same settings is gone on with."""
    model: str = "demo"
    """demo, smollm2, a folder, a Hugging Face name, or a GGUF file."""
    prompts: str = "demo"
    """demo, training (600 of many kinds), FILE.jsonl (Spec-Bench's form or {"prompt", "task"}), Spec-Bench's
    FILE.jsonl:tuning, or hf:NAME[:split[:column]]."""
    raw: bool = False
    """Hand prompts over as they stand. Otherwise they go through the chat template, where the tokenizer has one."""
    compression: tuple[str, ...] = ("none",)
    """How the weights are held, one log each: none, bf16, fp16, int8, nf4."""
    exit_layers: Literal["auto"] | tuple[int, ...] = "auto"
    """Layers to read the head after; 0 looks drafts up in the context instead, without any layer. auto is 0 and every
    layer of the shallower half, at most 8 of them."""
    draft_vocabulary: Literal["all"] | int = "all"
    """Tokens that exits read and draft: all, or so many of the most frequent ones, counted in the prompts and in what
    the model writes after some of them. Reading fewer rows of the head makes exits cheaper; verification reads all, so
    outputs stay the same."""
    own_text: str | None = None
    """Folder that specbound write left for this model: what it tends to write joins the log, for draft trees."""
    num_prompts: int | None = None
    """Prompts to take, spread evenly over the tasks; default: all."""
    max_new_tokens: int = 128
    """Most tokens per prompt, at least 2."""
    exactness: str = "auto"
    """Kernels that steps are recorded with: token, bitwise (row-stable: what is recorded is what drafts find, in any
    dtype), or auto: token for none, bitwise for all other levels."""
    rollout_rate: float = 0.02
    """Share of the wrong drafts that are followed to record the rest of their branch, in [0, 1]; 1 makes replay of
    policies with one exit layer exact. One in fifty says how far estimates of what follows wrong drafts are off, for
    about a fifth more time."""
    rollout_width: int | None = None
    """Longest draft whose rest a roll-out records, and whose tokens trained exits that read the verified state are
    recorded for, each as the draft that it is; at least 1; default: w_max."""
    seed: int = field(default=0, kw_only=True)
    """Seed of sampling (each prompt's is one higher than the last one's), of the choice of roll-outs, and of the random
    decisions that the cost table is measured with."""
    resume: bool = True
    """Go on with an unfinished run of the same settings; otherwise a folder that holds anything is refused."""
    shard_prompts: int = 4
    """Prompts per file of the log, at least 1; at most so many are lost when the run is killed."""
    w_max: int = 8
    """Longest draft of the verdict's replays, at least 1."""
    num_cost_steps: int = NUM_STEPS
    """Decoding steps that the cost table is measured on, at least 30. Up to 300 a table that was measured here for this
    model before is taken instead."""
    temperatures: tuple[float, ...] = field(default=DEFAULT_TEMPERATURES)
    """Layer temperatures whose confidence is recorded, ascending, above 0, 1.0 among them. Annealing asks for those
    from 1 on; with some below 1 specbound report finds that of an exit that is less sure than it could be."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""
    engine: str = "local"
    """Who records: local (this process), or ray (workers with one model each, on a Ray cluster or on this machine)."""
    num_workers: int | None = None
    """Ray's workers, at least 1; default: one for each GPU, or for each --threads CPUs where the model is on a CPU."""

    def __post_init__(self) -> None:
        SamplingConfig.__post_init__(self)
        require_one_of(("auto", *EXACTNESS_LEVELS), exactness=self.exactness)
        if not 0 <= self.rollout_rate <= 1:
            raise InputError(f"rollout_rate must be in [0, 1], got {self.rollout_rate}")
        if self.rollout_width is not None and self.rollout_width < 1:
            raise InputError(f"rollout_width must be >= 1, got {self.rollout_width}")
        if not self.compression:
            raise InputError(f"compression must name at least one of {', '.join(COMPRESSIONS)}, got none")
        for name in self.compression:
            if name not in COMPRESSIONS:
                raise InputError(f"compression must be among {', '.join(COMPRESSIONS)}, got {name!r}")
        if len(set(self.compression)) < len(self.compression):
            raise InputError(f"compression must not repeat a level, got {','.join(self.compression)}")
        if self.exits is not None and (self.draft_vocabulary != "all" or self.engine != "local"):
            raise InputError("exits bring their own draft_vocabulary and need engine local: leave both out")
        if self.draft_vocabulary != "all" and self.draft_vocabulary < MIN_TOKENS:
            raise InputError(f"draft_vocabulary must be all or >= {MIN_TOKENS}, got {self.draft_vocabulary}")
        least = {"max_new_tokens": 2, "shard_prompts": 1, "w_max": 1, "num_cost_steps": 30}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise InputError(f"{name} must be >= {bound}, got {getattr(self, name)}")
        require_one_of(("local", "ray"), engine=self.engine)
        if self.num_workers is not None and (self.engine == "local" or self.num_workers < 1):
            raise InputError(f"num_workers must be >= 1 and needs engine ray, got {self.num_workers}, {self.engine}")
        if self.num_prompts is not None and self.num_prompts < 1:
            raise InputError(f"num_prompts must be >= 1, got {self.num_prompts}")
        if 1.0 not in self.temperatures or list(self.temperatures) != sorted(set(self.temperatures)):
            raise InputError(f"temperatures must ascend and 1.0 be among them, got {self.temperatures}")
        if not 0 < self.temperatures[0] <= self.temperatures[-1] < inf:
            raise InputError(f"temperatures must be numbers above 0, got {self.temperatures}")

    def exactness_of(self, compression: str) -> str:
        """The level of exactness of a compression level, the default resolved."""
        if self.exactness != "auto":
            return self.exactness
        return "token" if compression == "none" else "bitwise"

    def exits_for(self, num_layers: int, trained: tuple[int, ...] = ()) -> tuple[int, ...]:
        """The exit layers for an L-layer model, shallow to deep. Raises InputError where one is not in it.

        trained: those of trained exits, which auto reads in place of the model's own.
        """
        if num_layers < 2:
            raise InputError(f"a model must have at least 2 layers to draft with, got {num_layers}")
        if self.exit_layers == "auto":
            return auto_exit_layers(num_layers, trained)
        for exit_layer in self.exit_layers:
            if not 0 <= exit_layer < num_layers:
                raise InputError(
                    f"exit_layer must be in [0, {num_layers - 1}] for a {num_layers}-layer model, got {exit_layer}"
                )
        if not set(self.exit_layers) - {LOOKUP_EXIT}:
            raise InputError("exit_layers must be auto or name at least one layer above 0, got none")
        return tuple(sorted(set(self.exit_layers)))


def auto_exit_layers(num_layers: int, trained: tuple[int, ...] = (), most: int = 8) -> tuple[int, ...]:
    """The context lookup, and every layer of the shallower half, or `most` spread evenly from layer 1 to the middle.

    trained: layers of trained exits, which are read in place of these where there are any.
    """
    if trained:
        return (LOOKUP_EXIT, *trained)
    half = max(1, num_layers // 2)
    if half <= most:
        return (LOOKUP_EXIT, *range(1, half + 1))
    return (LOOKUP_EXIT, *sorted({1 + round(k * (half - 1) / (most - 1)) for k in range(most)}))
