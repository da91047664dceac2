"""The config of `specbound train-exits`. Imports no torch, so that `--help` is fast."""

from dataclasses import dataclass
from typing import Literal

from specbound_controller.compression import COMPRESSIONS
from specbound_controller.errors import InputError, require_at_least, require_one_of

LOSSES = ("label", "kl", "acceptance", "mixed")
LOGGERS = ("none", "csv", "tensorboard", "wandb")
VARIANTS = ("no-state", "one-block", "low-rank", "low-rank-no-state", "unweighted", "raw-start")


@dataclass(frozen=True, slots=True)
class TrainExitsConfig:
    """Trains exits for a frozen model, on text that it wrote itself: small modules that let shallow layers draft. No
    parameter of the model is changed."""

    out: str
    """Folder for the exits; one that holds an unfinished run of the same settings is gone on with."""
    model: str = "demo"
    """demo, smollm2, a folder, a Hugging Face name, or a GGUF file."""
    own_text: str | None = None
    """Folder that specbound write left for this model; the prompts that it names must still be there."""
    text: tuple[str, ...] = ()
    """Files of natural text to learn from as well, teacher-forced."""
    exit_layers: Literal["auto"] | tuple[int, ...] = "auto"
    """Layers to train exits at; auto tries 1, 2, 4 and 8 for a tenth of the tokens and keeps the one that would be
    fastest in a chain."""
    kind: Literal["mlp", "low_rank"] = "mlp"
    """What a module is: gated perceptrons, or a matrix of low rank beside the identity."""
    num_blocks: int = 2
    """Gated perceptrons one after another, 1 or more."""
    width: int = 0
    """Width of a perceptron; 0 is twice the hidden width."""
    rank: int = 64
    """Rank of the matrix of kind low_rank."""
    reads_state: bool = True
    """Whether a module reads the full model's last state at the newest verified position too."""
    max_distance: int = 8
    """How many places back that position is told apart, at least 1."""
    draft_vocabulary: int = 8192
    """Tokens that the exits draft: the most frequent ones of the text, end tokens included; at most the model's."""
    loss: Literal["label", "kl", "acceptance", "mixed"] = "label"
    """What is minimised: cross-entropy to the full model's own token, to its distribution, the chance that a sampled
    draft is refused, or label and acceptance together."""
    distance_decay: float = 0.7
    """How much rarer each further distance is trained than the one before, in (0, 1]: drafts go as far as they are
    accepted."""
    miss_weight: float = 1.0
    """Weight of positions where the context does not say the next token, against others; above 1 trains exits for what
    sources that cost no layer miss."""
    prompt_weight: float = 0.2
    """Weight of positions within prompts, in [0, 1]; 0 leaves them out."""
    num_tokens: int = 3_000_000
    """Positions to train on, over all passes, at least 1000."""
    sequence_length: int = 512
    """Longest piece of text, tokens; of longer answers the beginning is taken."""
    batch_tokens: int = 2048
    """Tokens of one optimiser step, padding included; at least a piece of text."""
    learning_rate: float = 2e-3
    """Peak learning rate of AdamW."""
    weight_decay: float = 1e-2
    """Weight decay of AdamW."""
    validation_share: float = 0.05
    """Share of the pieces of text that only judge, in (0, 0.5]; those of one prompt stay together."""
    validation_tokens: int = 4096
    """Positions that judge, at least 100."""
    validate_every: int = 250_000
    """Training positions between two readings of the agreement, at least 1000."""
    compare: tuple[str, ...] = ()
    """Variants trained beside, on the same batches, measured and not kept: {VARIANTS}."""
    compression: str = "none"
    """How the frozen model's weights are held: none, bf16 or fp16."""
    checkpoint_every: int = 50
    """Optimiser steps between two checkpoints, at least 1."""
    seed: int = 0
    """Of weights, batches and distances."""
    threads: int = 1
    """CPU threads."""
    resume: bool = True
    """Go on with a run that was killed in this folder; off begins anew."""
    overwrite: bool = False
    """Replace exits that stand in the folder."""
    logger: Literal["none", "csv", "tensorboard", "wandb"] = "none"
    """Where losses and agreement go as well: nowhere, or below the folder's logs/; wandb is offline unless you are
    logged in."""

    def __post_init__(self) -> None:
        least = ("num_blocks", "rank", "max_distance", "checkpoint_every", "threads")
        require_at_least(1, **{name: getattr(self, name) for name in least})
        require_at_least(2, draft_vocabulary=self.draft_vocabulary)
        require_at_least(8, sequence_length=self.sequence_length)
        require_at_least(0, width=self.width, seed=self.seed, weight_decay=self.weight_decay)
        require_at_least(100, validation_tokens=self.validation_tokens)
        require_at_least(1000, num_tokens=self.num_tokens, validate_every=self.validate_every)
        require_at_least(self.sequence_length, batch_tokens=self.batch_tokens)
        require_one_of(LOSSES, loss=self.loss)
        require_one_of(LOGGERS, logger=self.logger)
        require_one_of(COMPRESSIONS[:3], compression=self.compression)
        for name in self.compare:
            require_one_of(VARIANTS, compare=name)
        if not 0 < self.distance_decay <= 1 or not 0 <= self.prompt_weight <= 1 or not self.miss_weight > 0:
            raise InputError(
                f"distance_decay must be in (0, 1], prompt_weight in [0, 1] and miss_weight above 0, got "
                f"{self.distance_decay}, {self.prompt_weight} and {self.miss_weight}"
            )
        if not 0 < self.learning_rate <= 1 or not 0 < self.validation_share <= 0.5:
            raise InputError(
                f"learning_rate must be in (0, 1] and validation_share in (0, 0.5], got {self.learning_rate} and "
                f"{self.validation_share}"
            )
        if self.own_text is None and not self.text:
            raise InputError("own_text or text must name what to learn from, got neither")
        if self.exit_layers != "auto" and (not self.exit_layers or min(self.exit_layers) < 1):
            raise InputError(f"exit_layers must be auto or layers from 1 on, got {self.exit_layers}")
