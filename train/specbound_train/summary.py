"""What a training run found out, as values and as text."""

from dataclasses import asdict, dataclass
from typing import Any

from specbound_train.calibration.measures import ExitFit
from specbound_train.compare import LevelSummary


@dataclass(frozen=True, slots=True)
class TrainSummary:
    """One controller's training: data, calibration and replayed speeds on the validation prompts."""

    out: str
    """Folder of the controller."""
    model: str
    """Name of the profiled model; of a path the last part."""
    prompts: str
    """Name of the profiled prompts; of a path the last part."""
    num_prompts: int
    """Prompts trained on and judged with, those without a step left out."""
    num_positions: int
    """Tokens that steps emit, over all prompts and compression levels."""
    num_rows: int
    """Steps that the step policy was fitted on."""
    num_rounds: int
    """Rounds of collecting steps and fitting."""
    num_actions: int
    alpha: float
    """Strength of annealing, by likelihood on the training prompts."""
    exits: tuple[ExitFit, ...]
    """Calibration of the exit score on the validation prompts, one for each exit layer."""
    levels: tuple[LevelSummary, ...]
    """Replayed speeds, one for each compression level and sampling temperature."""
    seconds: float
    """Wall time of the run."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"controller in {self.out}: {self.num_rows} steps of {self.num_prompts} prompts "
            f"({self.num_positions} positions), {self.num_actions} actions, {self.num_rounds} rounds, "
            f"{self.seconds:.0f} s",
            "exit score on the validation prompts (plain confidence in brackets):",
            *(_exit_line(fit) for fit in self.exits),
            "replayed on the validation prompts (modelled, prefill left out):",
        ]
        for level in self.levels:
            lines += _level_lines(level)
        return "\n".join(lines)


def _exit_line(fit: ExitFit) -> str:
    return (
        f"  exit {fit.exit_layer:2d}: accepted {fit.acceptance:.2f}, "
        f"ECE {fit.ece:.3f} ({fit.confidence_ece:.3f}), Brier {fit.brier:.3f} ({fit.confidence_brier:.3f}), "
        f"AUROC {fit.auroc:.3f} ({fit.confidence_auroc:.3f}), {fit.num_rows} drafts"
    )


def _level_lines(level: LevelSummary) -> list[str]:
    lines = [
        f"  {level.name}: plain {level.plain_tokens_per_second:.1f} tokens/s, "
        f"best static {level.best_static_speedup:.3f}x ({level.best_static}), "
        f"learned score alone {level.best_static_learned_speedup:.3f}x ({level.best_static_learned}), "
        f"controller {level.controller_speedup:.3f}x, oracle {level.oracle_speedup:.3f}x; "
        f"{level.num_prompts} prompts, {level.num_tokens} tokens",
    ]
    if level.played_action is not None:
        lines.append(
            f"    the step policy alone reached {level.step_policy_speedup:.3f}x, not above the best static setting, "
            f"so this controller plays {level.played_action.name} at every step"
        )
    else:
        lines.append(
            f"    controller over best static {level.gain:.3f} (95 % interval over prompts "
            f"{level.gain_low:.3f} to {level.gain_high:.3f}); {level.oracle_share:.0%} of the oracle's gain; "
            f"guard paused {level.paused_share:.0%} of steps"
        )
    return lines
