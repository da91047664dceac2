"""Reads a step log and splits it by prompt. Knows no network."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sklearn.model_selection import train_test_split

from specbound_controller.costs import CostTable
from specbound_controller.errors import InputError
from specbound_profiling.log import StepLog
from specbound_profiling.trace import PromptTrace

MIN_PROMPTS = 3
"""Fewest prompts to train on: one each to fit, to tune and to judge."""
MIN_POSITIONS = 32
"""Fewest generated tokens beyond the first of each prompt, over all prompts of a level."""
TUNE_SHARE = 0.2
"""Share of the training prompts that calibrate the score and end the fits."""


@dataclass(frozen=True, slots=True, eq=False)
class LevelData:
    """One compression level's traces, split by prompt."""

    compression: str
    costs: CostTable
    fit: tuple[PromptTrace, ...]
    """Prompts that the networks are fitted on."""
    tune: tuple[PromptTrace, ...]
    """Prompts that calibrate the score and tell when to end a fit."""
    validation: tuple[PromptTrace, ...]
    """Prompts that only judge."""

    @property
    def training(self) -> tuple[PromptTrace, ...]:
        """The prompts that settings may be chosen on."""
        return self.fit + self.tune

    @property
    def num_positions(self) -> int:
        """Tokens that steps emit, over all prompts."""
        return sum(trace.num_positions - 1 for trace in self.training + self.validation)


def load_levels(log: StepLog, validation_share: float, seed: int) -> list[LevelData]:
    """All compression levels of a log; a prompt is on the same side of the split at every level.

    Raises:
        InputError: too few prompts or positions, or no cost table for a level.
    """
    by_level = {level: log.traces(level) for level in log.manifest.compressions}
    for level, traces in by_level.items():
        check_enough(traces, level, str(log.root))
        if level not in log.costs:
            raise InputError(f"log {log.root} has no cost table for {level}; profile again to measure one")
    tasks = {trace.prompt_id: trace.task for traces in by_level.values() for trace in traces}
    fit, tune, validation = split_prompts(tasks, validation_share, seed)
    return [
        LevelData(
            level,
            log.costs[level],
            *(tuple(trace for trace in traces if trace.prompt_id in part) for part in (fit, tune, validation)),
        )
        for level, traces in by_level.items()
    ]


def check_enough(traces: Sequence[PromptTrace], level: str, origin: str) -> None:
    """Raises InputError, with counts, where a level holds too little to train on."""
    num_prompts = len({trace.prompt_id for trace in traces if trace.num_positions > 1})
    num_positions = sum(trace.num_positions - 1 for trace in traces)
    if num_prompts < MIN_PROMPTS or num_positions < MIN_POSITIONS:
        raise InputError(
            f"log {origin} has {num_prompts} prompts and {num_positions} positions at {level}; at least {MIN_PROMPTS} "
            f"prompts and {MIN_POSITIONS} positions are needed: profile more prompts or more tokens"
        )


def split_prompts(tasks: dict[str, str], validation_share: float, seed: int) -> tuple[set[str], set[str], set[str]]:
    """Prompt ids to fit, to tune and to judge, by kind of content where there are enough of each."""
    prompts = sorted(tasks)
    training, validation = _split(prompts, tasks, validation_share, seed)
    fit, tune = _split(training, tasks, TUNE_SHARE, seed + 1)
    return set(fit), set(tune), set(validation)


def _split(prompts: list[str], tasks: dict[str, str], share: float, seed: int) -> tuple[list[str], list[str]]:
    num_second = max(1, round(share * len(prompts)))
    kinds = [tasks[prompt] for prompt in prompts]
    counts = Counter(kinds)
    can_stratify = min(counts.values()) >= 2 and len(counts) <= min(num_second, len(prompts) - num_second)
    first, second = train_test_split(
        prompts, test_size=num_second, random_state=seed, stratify=kinds if can_stratify else None
    )
    return first, second
