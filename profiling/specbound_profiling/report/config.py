"""The report's config. Imports no torch, so that `--help` is fast."""

from dataclasses import dataclass

from specbound_controller.errors import InputError, require_at_least


@dataclass(frozen=True, slots=True)
class ReportConfig:
    """Shows how far every exit layer's confidence can be trusted: plots, tables and one page with a token view."""

    log: str
    """Folder of the log."""
    out: str
    """Folder for report.html and the plots; files of an earlier report are replaced."""
    model: str | None = None
    """Whose tokenizer turns token ids into text: demo, a folder, or a Hugging Face name. By default the model that the
    log names, or ids where that one cannot be loaded; none: ids."""
    alpha: float | None = None
    """Strength of annealing to judge, at least 0; by default the one that the full model's tokens make most likely."""
    judged_share: float = 0.5
    """Share of the prompts that judge; calibration is fitted on the others. In [0.1, 0.9]."""
    num_viewed: int = 12
    """Prompts in the token view, spread over the kinds of content; 0 leaves the view out."""
    seed: int = 0
    """Seed of the split."""

    def __post_init__(self) -> None:
        if not 0.1 <= self.judged_share <= 0.9:
            raise InputError(f"judged_share must be in [0.1, 0.9], got {self.judged_share}")
        require_at_least(0, alpha=self.alpha, num_viewed=self.num_viewed, seed=self.seed)
