"""The config of `specbound bench`. Imports no torch, so that `--help` is fast."""

from dataclasses import dataclass
from typing import Literal

from specbound.decoding.exactness import require_exactness
from specbound.decoding.sampling_config import SamplingConfig
from specbound.models.names import chosen_controller
from specbound_controller.compression import COMPRESSIONS
from specbound_controller.errors import InputError, require_at_least, require_one_of
from specbound_controller.own_policy import is_own_policy
from specbound_controller.policy_names import rejoined, require_policy_name
from specbound_controller.trees.names import is_tree_name
from specbound_profiling.prompts.files import other_prompts

METHODS = (
    "transformers",
    "plain",
    "assistant_early_exit",
    "assistant_early_exit_default",
    "assistant_early_exit_heuristic",
    "assistant_model",
    "prompt_lookup",
    "best_static",
    "best_tree",
    "controller",
)
"""Methods in the order of the table. Those of transformers: its greedy or sampling `generate`; its early exit, the best
of a grid, as its defaults are, and with its heuristic schedule; a draft model made of the first layers, with its
dynamic threshold; prompt lookup. Ours: plain decoding, the best static setting, the best draft tree, the
controller."""


def is_eager(method: str) -> bool:
    """Whether captured CUDA graphs cannot run it: draft trees, and policies of a user's own, which may draft some."""
    return method == "best_tree" or is_tree_name(method) or is_own_policy(method)


SHAPES = ("tiny", "small", "1b", "7b", "13b")
"""Shapes of random models: two small ones for a CPU, Llama 3.2 1B, Vicuna 7B, CodeLlama 13B."""

AXES = ("context", "width", "layers", "vocabulary", "prompts")
"""What `--scaling` may vary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchConfig(SamplingConfig):
    """Times every method side by side: transformers' own speculative decoding, plain decoding, ours at each level of
    exactness. With --shape a random model of a published shape, with --scaling how costs grow."""

    model: str = "demo"
    """demo, smollm2, a folder, a Hugging Face name, or a GGUF file."""
    exits: str | None = None
    """Trained exits of this model: a folder that train-exits wrote, OWNER/NAME on the Hub, or smollm2."""
    prompts: str = "demo"
    """demo (its evaluation set), FILE.jsonl (Spec-Bench's question.jsonl too), or hf:NAME[:split[:column]]."""
    raw: bool = False
    """Hand prompts over as they stand. Otherwise they go through the chat template, where the tokenizer has one."""
    num_prompts: int = 24
    """Prompts to time, spread over the kinds of content, at least 1."""
    tuning_prompts: str | None = None
    """Other prompts, on which grids are searched, the same forms. By default FILE:tuning for FILE:evaluation, the
    demonstration's other set for demo, else training."""
    num_tuning_prompts: int = 6
    """Of these, at least 1."""
    tuning_tokens: int = 48
    """Most tokens for each tuning prompt, at least 8."""
    max_new_tokens: int = 96
    """Most tokens for each prompt, at least 8."""
    methods: Literal["auto"] | tuple[str, ...] = "auto"
    """Methods to time besides plain decoding; auto: all that the model allows. Besides those of the table: draft trees
    such as tree7, fixed settings such as static:lookup0.5+exit4,width2, classes of your own, module:Class."""
    controller: str | None = None
    """demo, a folder that train-controller wrote, or none. By default demo for the demo model only."""
    compression: str = "none"
    """How the weights are held: none, bf16, fp16, int8 or nf4."""
    exactness: tuple[str, ...] = ("token", "bitwise")
    """Levels at which our methods run, one or both: token, bitwise."""
    compile: bool = False
    """On a GPU, with exactness token alone: our methods run on captured CUDA graphs, plain decoding too."""
    costs: str = "auto"
    """What work costs here: auto (measured once, about 30 s for each level), or a log's costs.json."""
    tuned_exit_layers: Literal["auto"] | tuple[int, ...] = "auto"
    """Exit layers of the grids of transformers' methods; auto: five, at 1/16 to 3/8 of the depth."""
    tuned_lengths: tuple[int, ...] = (1, 2, 4, 8)
    """Draft lengths of the grids of transformers' methods."""
    num_rounds: int = 2
    """Times that every method decodes every prompt; medians count. At least 1."""
    shape: str | None = None
    """Instead of a model: a random Llama of this shape, whose deep layers are damped until its exit agrees as often as
    asked: tiny, small, 1b, 7b, 13b."""
    acceptance: float | None = None
    """With --shape: share of the draft tokens that are to be accepted, above 0 and below 1."""
    tokens_per_step: float | None = None
    """With --shape: tokens that a step is to emit, above 1. By default the paper's 3.78 (7b) and 3.49 (13b), else 3."""
    shape_exit_layer: int | None = None
    """With --shape: the layer that drafts. By default an eighth of the depth."""
    shape_widths: tuple[int, ...] = (4, 6)
    """With --shape: draft lengths, each timed by itself."""
    scaling: tuple[str, ...] = ()
    """Instead of methods: how time grows with context, width, layers, vocabulary, prompts, one or several."""
    device: str = "auto"
    """A torch device; auto: the first GPU where there is one, otherwise the CPU."""
    allow_noise: bool = False
    """Print speedups, with a warning, also where the machine was busy with something else; otherwise fail."""
    threads: int = 1
    """CPU threads."""
    out: str | None = None
    """Folder for the tables as Markdown, the plots, and each method's answers in Spec-Bench's form."""
    json: str | None = None
    """File for the results as JSON; - is standard output, where the table is left out."""

    def __post_init__(self) -> None:
        SamplingConfig.__post_init__(self)
        require_at_least(
            1,
            num_prompts=self.num_prompts,
            num_tuning_prompts=self.num_tuning_prompts,
            num_rounds=self.num_rounds,
            threads=self.threads,
        )
        require_at_least(8, max_new_tokens=self.max_new_tokens, tuning_tokens=self.tuning_tokens)
        require_one_of(COMPRESSIONS, compression=self.compression)
        for level in self.exactness:
            require_exactness(level)
        if self.methods != "auto":
            object.__setattr__(self, "methods", rejoined(self.methods))
        for method in self.own_policies:
            require_policy_name(method, METHODS, what="methods")
        for axis in self.scaling:
            require_one_of(AXES, scaling=axis)
        for name, values in (("tuned_lengths", self.tuned_lengths), ("shape_widths", self.shape_widths)):
            if not values or min(values) < 1:
                raise InputError(f"{name} must be one or more numbers >= 1, got {','.join(map(str, values))}")
        if not self.exactness:
            raise InputError("exactness must name one or both of token, bitwise, got none")
        if self.compile and self.exactness != ("token",):
            raise InputError(f"exactness must be token alone with compile, got {','.join(self.exactness)}")
        eager = [name for name in self.named if is_eager(name)]
        if self.compile and eager:
            raise InputError(f"methods must not hold {eager[0]} with compile: captured graphs run chains only")
        if self.compile and (self.shape is not None or self.scaling):
            raise InputError("compile must not be given with shape or scaling: it is for a model's methods")
        if self.prompt_source == self.tuning_source:
            raise InputError(f"tuning_prompts must be other prompts than prompts, got {self.tuning_prompts} for both")
        self._check_shape()

    def _check_shape(self) -> None:
        if self.shape is None:
            if (self.acceptance, self.tokens_per_step, self.shape_exit_layer) != (None, None, None):
                raise InputError(
                    "acceptance, tokens_per_step and shape_exit_layer need shape: other models have their own"
                )
            return
        require_one_of(SHAPES, shape=self.shape)
        if self.scaling:
            raise InputError("shape and scaling must not be given together: each is a measurement of its own")
        if self.acceptance is not None and self.tokens_per_step is not None:
            raise InputError("acceptance must not be given with tokens_per_step: one follows from the other")
        if self.acceptance is not None and not 0 < self.acceptance < 1:
            raise InputError(f"acceptance must be above 0 and below 1, got {self.acceptance}")
        if self.tokens_per_step is not None and not 1 < self.tokens_per_step < max(self.shape_widths) + 1:
            raise InputError(
                f"tokens_per_step must be above 1 and below the largest width + 1, {max(self.shape_widths) + 1}, got "
                f"{self.tokens_per_step}"
            )

    @property
    def prompt_source(self) -> str:
        """The prompts to time, `demo` resolved."""
        return "demo:evaluate" if self.prompts == "demo" else self.prompts

    @property
    def tuning_source(self) -> str:
        """The prompts to tune on, `demo` resolved."""
        if self.tuning_prompts is None:
            return other_prompts(self.prompt_source)
        return "demo:profile" if self.tuning_prompts == "demo" else self.tuning_prompts

    @property
    def controller_name(self) -> str:
        """The controller to use, its default resolved."""
        return chosen_controller(self.controller, self.model)

    @property
    def own_policies(self) -> tuple[str, ...]:
        """Policies by name that are no methods of the table."""
        return tuple(name for name in self.named if name not in METHODS)

    @property
    def named(self) -> tuple[str, ...]:
        """What was asked for by name, each once."""
        return () if self.methods == "auto" else tuple(dict.fromkeys(self.methods))

    @property
    def chosen_methods(self) -> tuple[str, ...]:
        """Methods of the table to time, plain decoding among them, in its order."""
        asked = METHODS if self.methods == "auto" else ("plain", *self.methods)
        if self.methods != "auto" and "controller" in asked and self.controller_name == "none":
            raise InputError("method controller needs a controller, got controller none")
        if self.compile:
            asked = tuple(name for name in asked if not is_eager(name))
        return tuple(
            name for name in METHODS if name in asked and (name != "controller" or self.controller_name != "none")
        )
