"""What a training run found out, as values and as text."""

from dataclasses import asdict, dataclass
from typing import Any

from specbound_controller.figures import interval, number, share, times
from specbound_controller.settings import both, in_words
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
        f"  exit {fit.exit_layer:2d}: accepted {number(fit.acceptance, 2)}, "
        f"ECE {_both(fit.ece, fit.confidence_ece)}, Brier {_both(fit.brier, fit.confidence_brier)}, "
        f"AUROC {_both(fit.auroc, fit.confidence_auroc)}, {fit.num_rows} drafts"
    )


def _both(learned: float, confidence: float) -> str:
    return f"{number(learned, 3)} ({number(confidence, 3)})"


def _level_lines(level: LevelSummary) -> list[str]:
    lines = [
        f"  {level.name}: plain {number(level.plain_tokens_per_second, 1)} tokens/s, "
        f"best static {times(level.best_static_speedup, 3)} ({in_words(level.best_static)}), "
        f"learned score alone {times(level.best_static_learned_speedup, 3)} ({in_words(level.best_static_learned)}), "
        f"controller {times(level.controller_speedup, 3)}, oracle {times(level.oracle_speedup, 3)}; "
        f"{level.num_prompts} prompts, {level.num_tokens} tokens",
    ]
    if level.played_action is not None:
        lines.append(
            f"    the step policy alone reached {times(level.step_policy_speedup, 3)}, not above the best static "
            f"setting, so this controller plays {both(level.played_action.name)} at every step"
        )
    else:
        lines.append(
            f"    controller over best static {number(level.gain, 3)} (95 % interval over prompts "
            f"{interval(level.gain_low, level.gain_high, 3)}); {share(level.oracle_share)} of the oracle's gain; "
            f"guard paused {share(level.paused_share)} of steps"
        )
    return lines
