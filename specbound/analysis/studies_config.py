"""The configs of `specbound sensitivity` and `specbound ablation`. Imports no torch, so that `--help` is fast."""

from dataclasses import dataclass
from typing import Literal

from specbound.exits.option import ExitsOption
from specbound_controller.compression import COMPRESSIONS
from specbound_controller.errors import InputError, require_at_least, require_one_of


@dataclass(frozen=True, slots=True)
class StudyConfig(ExitsOption):
    """What both studies share. The base setting is searched on one half of the prompts, as far as it is not given; all
    figures come from the other half."""

    log: str
    """Folder of a log that specbound profile wrote."""
    out: str
    """Folder for the table and the plot; files of an earlier study of the same kind are replaced."""
    costs: str = "log"
    """What work costs: log (the log's own table), or a costs.json."""
    compression: str = "auto"
    """Level of the log to study; auto is the first one."""
    exit_layers: Literal["auto"] | tuple[int, ...] = "auto"
    """Exits that are read up to the depth bound; auto takes the log's from the best shallowest one on."""
    alpha: float | None = None
    """Strength of annealing of the base, at least 0; by default searched, like the next three."""
    threshold: float | None = None
    """Threshold of the base, in [0, 1]."""
    d_max: int | None = None
    """Depth bound of the base: deepest exit that is read."""
    w_max: int | None = None
    """Width bound of the base, at least 1."""
    alphas: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Strengths of annealing to try; those beyond the log's temperatures are left out."""
    thresholds: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    """Thresholds to try."""
    widths: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16)
    """Width bounds to try."""
    live: int = 0
    """Measure so many settings with the real decoder too, beside plain decoding; 0 runs no model."""
    live_prompts: int = 6
    """Prompts of the log to measure them on, spread over the kinds of content."""
    live_rounds: int = 3
    """Times that every setting decodes them, interleaved in rotating order; medians count."""
    seed: int = 0
    """Seed of the bootstrap."""
    threads: int = 1
    """CPU threads of live decoding."""
    json: str | None = None
    """File for the results as JSON; - is standard output, where the tables are left out."""

    def __post_init__(self) -> None:
        require_at_least(0, live=self.live, seed=self.seed, d_max=self.d_max)
        require_at_least(1, live_prompts=self.live_prompts, live_rounds=self.live_rounds, threads=self.threads)
        if self.w_max is not None:
            require_at_least(1, w_max=self.w_max)
        if self.compression != "auto":
            require_one_of(COMPRESSIONS, compression=self.compression)
        if not (self.exit_layers and self.alphas and self.thresholds and self.widths):
            raise InputError("exit_layers, alphas, thresholds and widths must hold at least one value, got none")
        require_at_least(0, alpha=self.alpha)
        require_at_least(0, alphas=min(self.alphas))
        named = [("thresholds", value) for value in self.thresholds]
        for name, value in (*named, *([] if self.threshold is None else [("threshold", self.threshold)])):
            if not 0 <= value <= 1:
                raise InputError(f"{name} must be in [0, 1], got {value}")
        if min(self.widths) < 1:
            raise InputError(f"widths must be >= 1, got {min(self.widths)}")


@dataclass(frozen=True, slots=True)
class SensitivityConfig(StudyConfig):
    """Shows by replay how much each of SpecBound's settings matters: alpha, threshold, depth and width bound."""


@dataclass(frozen=True, slots=True)
class AblationConfig(StudyConfig):
    """Shows by replay what each of SpecBound's parts is worth: annealing, depth and width bound, kept hidden states."""
