"""The config of `specbound results`. Imports no torch, so that `--help` is fast."""

from dataclasses import dataclass
from typing import Literal

from specbound.models.names import chosen_controller
from specbound_controller.compression import COMPRESSIONS
from specbound_controller.errors import InputError, require_at_least, require_one_of
from specbound_controller.policy_names import rejoined, require_policy_name
from specbound_controller.trees.names import TREE_NAMES
from specbound_profiling.prompts.files import other_prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteConfig:
    """Measures one model at several compression levels, greedily and sampled: transformers, its prompt lookup and early
    exit, plain decoding, the best fixed setting, a controller and the oracle, by kind of content. Every few prompts are
    written at once; the same command goes on with what is missing."""

    out: str
    """Folder for what was measured and the table, results.md and results.json; one that holds an unfinished run of the
    same settings is gone on with."""
    model: str = "demo"
    """demo, smollm2, a folder, a Hugging Face name, or a GGUF file."""
    prompts: str = "demo:evaluate"
    """demo:evaluate, FILE.jsonl, Spec-Bench's question.jsonl:evaluation, or hf:NAME[:split[:column]]."""
    raw: bool = False
    """Hand prompts over as they stand. Otherwise they go through the chat template, where the tokenizer has one."""
    num_prompts: int | None = None
    """Prompts to take, spread evenly over the tasks; default: all."""
    max_new_tokens: int = 96
    """Most tokens per prompt, at least 2; a text that begins to loop is cut there, for all methods alike."""
    compression: tuple[str, ...] = ("none", "bf16", "int8", "nf4")
    """How the weights are held, one or several: none, bf16, fp16, int8, nf4. fp32 runs on the model's own kernels, all
    others row-stably, so that outputs are equal."""
    temperatures: tuple[float, ...] = (0.0, 0.7)
    """0 decodes greedily, others sample; one or several."""
    controller: str | None = None
    """demo, a folder that train-controller wrote, or none. By default demo for the demo model only."""
    policies: tuple[str, ...] = ()
    """Policies to measure besides: draft trees such as tree7, fixed settings such as static:lookup0.5+exit4,width2, and
    classes of your own, module:Class."""
    rounds: int = 1
    """Times that every method decodes every prompt; medians count. At least 1."""
    tuning_prompts: str | None = None
    """Other prompts, the same forms, on which settings are chosen, transformers' own too. By default FILE:tuning for
    FILE:evaluation, the demonstration's other set for demo, else training."""
    num_tuning_prompts: int = 24
    """Of these, spread over the kinds of content, at least 1; transformers' grids are searched on the first six."""
    tuning_tokens: int = 48
    """Most tokens for each tuning prompt, at least 8."""
    tuned_exit_layers: Literal["auto"] | tuple[int, ...] = "auto"
    """Exit layers of the grid of transformers' early exit; auto: five, at 1/16 to 3/8 of the depth."""
    tuned_lengths: tuple[int, ...] = (1, 2, 4, 8)
    """Draft lengths of the grids of transformers' methods."""
    w_max: int = 8
    """Longest draft that the oracle may issue, at least 1."""
    block_prompts: int = 4
    """Prompts that are written together, at least 1; at most so many are lost when the run is killed."""
    seed: int = 0
    """Seed of sampling and of the bootstrap."""
    allow_noise: bool = False
    """Show speedups, with a warning, also where the machine was busy with something else."""
    threads: int = 1
    """CPU threads."""
    json: str | None = None
    """File for the results as JSON; - is standard output, where the tables are left out."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "policies", rejoined(self.policies))
        for name in self.policies:
            require_policy_name(name, TREE_NAMES, what="policies")
        require_at_least(2, max_new_tokens=self.max_new_tokens)
        require_at_least(8, tuning_tokens=self.tuning_tokens)
        counts = {
            name: getattr(self, name) for name in ("rounds", "num_tuning_prompts", "w_max", "block_prompts", "threads")
        }
        require_at_least(1, **counts)
        if self.num_prompts is not None:
            require_at_least(1, num_prompts=self.num_prompts)
        require_at_least(0, seed=self.seed)
        for level in self.compression:
            require_one_of(COMPRESSIONS, compression=level)
        for name, values in (("compression", self.compression), ("temperatures", self.temperatures)):
            if not values or len(set(values)) < len(values):
                raise InputError(
                    f"{name} must name one or several, none twice, got {','.join(map(str, values)) or 'none'}"
                )
        if min(self.temperatures) < 0:
            raise InputError(f"temperatures must be >= 0, got {min(self.temperatures)}")
        if not self.tuned_lengths or min(self.tuned_lengths) < 1:
            raise InputError("tuned_lengths must be one or more numbers >= 1")
        if self.tuning_source == self.prompts:
            raise InputError(f"tuning_prompts must be other prompts than prompts, got {self.prompts} for both")

    @property
    def tuning_source(self) -> str:
        """The tuning prompts, the default resolved."""
        return other_prompts(self.prompts) if self.tuning_prompts is None else self.tuning_prompts

    @property
    def controller_name(self) -> str:
        """The controller to use, its default resolved."""
        return chosen_controller(self.controller, self.model)
