"""The controller training stage's config. Imports no torch, so that `--help` is fast."""

from dataclasses import dataclass
from typing import Literal

from specbound_controller.actions import LOOKUP_FIRST, MAX_PROFILES, THRESHOLDS, WIDTHS
from specbound_controller.compression import COMPRESSIONS
from specbound_controller.errors import InputError

LOGS_FOLDER = "logs"
"""Where the loggers' files of a run lie, below its folder."""
REPORT_FOLDER = "report"
"""Where the report of a run lies."""
UNFINISHED_FOLDER = "unfinished"
"""Where a run keeps its finished fits until it ends."""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Fits a controller on logs that specbound profile wrote: an exit score and a step policy."""

    log: tuple[str, ...] | str
    """Folder of the log, or several of the same model with commas between, such as a greedy and a sampled one; a prompt
    is on the same side of the split in all of them."""
    out: str
    """Folder for the controller; one that holds a controller already is refused unless overwrite is on."""
    overwrite: bool = False
    """Replace a controller that stands in the folder."""
    resume: bool = True
    """Go on with a run that was killed in this folder: fits that it finished are not done again. Off begins anew."""
    compression: Literal["auto"] | tuple[str, ...] = "auto"
    """Compression levels of the logs to train on, one controller for all of them; auto: all."""
    without_compression: bool = False
    """Train networks that are not told the compression level (an ablation); costs stay those of each level."""
    full_signals: bool = False
    """Show the networks the full model's confidence, entropy and margin at the last token, for one more pass over the
    logits in every step."""
    max_positions: int = 400_000
    """Most generated tokens to train on, over all levels, at least 1,000: of a larger log a random choice of the
    prompts is taken, shard by shard, so that memory does not grow with the log."""
    hidden_units: int = 64
    """Hidden units of the step policy, 1 to 256."""
    score_hidden_units: int = 16
    """Hidden units of the exit score, 1 to 256."""
    tree_hidden_units: int = 32
    """Hidden units of the score of tree nodes, 1 to 256."""
    widths: tuple[int, ...] = WIDTHS
    """Widths of the action grid (draft tokens), ascending, 1 to 64; plain decoding is always in the grid."""
    thresholds: tuple[float, ...] = THRESHOLDS
    """Thresholds of the action grid beside 0, ascending, in (0, 1): least probability that the draft is accepted."""
    lookup_first: tuple[tuple[float, float], ...] = LOOKUP_FIRST
    """Pairs of thresholds in (0, 1), of the lookup and of the exit: actions that look the context up and run the exit
    where it is not sure. Only with lookups (exit layer 0) in the log; () for none."""
    max_profiles: int = MAX_PROFILES
    """Most kinds of action, widths aside, that the controller keeps beside plain decoding: those that the step policy
    chose most often in the first round. The more, the longer a decision takes."""
    epochs: int = 40
    """Most passes over the training rows in each fit; a fit ends early where held-out loss stops falling."""
    learning_rate: float = 3e-3
    """Peak learning rate of AdamW."""
    weight_decay: float = 1e-2
    """Weight decay of AdamW."""
    exploration: float = 0.2
    """Share of random actions in the first collection of steps, in (0, 1]; half of it in later ones."""
    max_rounds: int = 4
    """Most rounds of replaying the step policy and fitting it again, at least 1."""
    validation_share: float = 0.25
    """Share of the prompts that are only used to judge the controller, in [0.05, 0.5]."""
    seed: int = 0
    """Seed of the split, the random actions and the weights; the same seed gives the same controller."""
    logger: Literal["none", "csv", "tensorboard", "wandb"] = "none"
    """Where the loss curves go as well: nowhere, or below the folder's logs/; wandb is offline unless you are logged
    in."""
    report: bool = True
    """Write report/ into the folder: loss curves, importance of the features, chosen widths (some seconds)."""

    @property
    def logs(self) -> tuple[str, ...]:
        """Folders of the logs, at least one."""
        return (self.log,) if isinstance(self.log, str) else tuple(self.log)

    def __post_init__(self) -> None:
        if not self.logs or len(set(self.logs)) != len(self.logs):
            raise InputError(f"log must name one folder or several different ones, got {self.log}")
        bounds = {
            "hidden_units": (1, 256),
            "score_hidden_units": (1, 256),
            "tree_hidden_units": (1, 256),
            "epochs": (1, 10_000),
            "max_rounds": (1, 20),
            "max_profiles": (1, 1000),
            "validation_share": (0.05, 0.5),
            "max_positions": (1000, 10**12),
            "seed": (0, 2**53),
        }
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{name} must be in [{low}, {high}], got {getattr(self, name)}")
        if not self.compression or len(set(self.compression)) != len(self.compression):
            raise InputError(f"compression must be auto or name different levels, got {self.compression}")
        for level in () if self.compression == "auto" else self.compression:
            if level not in COMPRESSIONS:
                raise InputError(f"compression must be auto or among {', '.join(COMPRESSIONS)}, got {level!r}")
        if not 0.0 < self.exploration <= 1.0:
            raise InputError(f"exploration must be in (0, 1], got {self.exploration}")
        if not 0.0 < self.learning_rate <= 1.0 or not 0.0 <= self.weight_decay <= 10.0:
            raise InputError(
                f"learning_rate must be in (0, 1] and weight_decay in [0, 10], "
                f"got {self.learning_rate} and {self.weight_decay}"
            )
        if not self.widths or list(self.widths) != sorted(set(self.widths)) or not 1 <= min(self.widths) <= 64:
            raise InputError(f"widths must ascend within [1, 64], got {self.widths}")
        if max(self.widths) > 64:
            raise InputError(f"widths must ascend within [1, 64], got {self.widths}")
        ascending = list(self.thresholds) == sorted(set(self.thresholds))
        if not ascending or any(not 0.0 < threshold < 1.0 for threshold in self.thresholds):
            raise InputError(f"thresholds must ascend within (0, 1), got {self.thresholds}")
        for pair in self.lookup_first:
            if len(pair) != 2 or any(not 0.0 < threshold < 1.0 for threshold in pair):
                raise InputError(f"lookup_first must hold pairs within (0, 1), got {pair}")
        if len(set(self.lookup_first)) != len(self.lookup_first):
            raise InputError(f"lookup_first must hold different pairs, got {self.lookup_first}")
        if self.logger not in ("none", "csv", "tensorboard", "wandb"):
            raise InputError(f"logger must be none, csv, tensorboard or wandb, got {self.logger!r}")
