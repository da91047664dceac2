"""Reads a step log, as much of it as memory allows, and splits it by prompt. Knows no network."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from sklearn.model_selection import train_test_split

from specbound_controller.costs import CostTable
from specbound_controller.errors import InputError
from specbound_profiling.log import StepLog
from specbound_profiling.trace import Branches, PromptTrace

MIN_PROMPTS = 3
"""Fewest prompts to train on: two to fit and to end the fits, one to judge."""
MIN_POSITIONS = 32
"""Fewest generated tokens beyond the first of each prompt, over all prompts of a level."""
MAX_FOLDS = 4
"""Most folds of the training prompts: networks are fitted on all but one of them and judged on that one."""


@dataclass(frozen=True, slots=True, eq=False)
class LevelData:
    """One compression level's traces, split by prompt."""

    compression: str
    costs: CostTable
    training: tuple[PromptTrace, ...]
    """Prompts that networks are fitted and settings chosen on."""
    folds: np.ndarray
    """Fold of each training prompt, from 0. (number of training prompts,) int64"""
    validation: tuple[PromptTrace, ...]
    """Prompts that only judge."""

    @property
    def num_positions(self) -> int:
        """Tokens that steps emit, over all prompts."""
        return sum(trace.num_positions - 1 for trace in self.training + self.validation)


def load_levels(
    log: StepLog,
    validation_share: float,
    seed: int,
    compressions: Sequence[str] | None = None,
    max_positions: int | None = None,
) -> list[LevelData]:
    """Compression levels of a log; a prompt is on the same side of the split at every level.

    Args:
        compressions: Levels to read; None takes all of the log.
        max_positions: Most generated tokens over all levels; None takes all. Of a larger log the same random choice of
            the prompts is taken at every level; no more than it and one shard are held at a time.

    Raises:
        InputError: too few prompts or positions, a level that the log does not hold, or no cost table for one.
    """
    chosen = tuple(log.manifest.compressions) if compressions is None else tuple(compressions)
    for level in chosen:
        if level in log.manifest.compressions and level not in log.costs:
            raise InputError(f"log {log.root} has no cost table for {level}; profile again to measure one")
    by_level = _sampled(log, chosen, seed, max_positions)
    for level, traces in by_level.items():
        check_enough(traces, level, str(log.root))
        by_level[level] = [trace for trace in traces if trace.num_positions > 1]  # the others hold no step
    tasks = {trace.prompt_id: trace.task for traces in by_level.values() for trace in traces}
    folds, validation = split_prompts(tasks, validation_share, seed)
    levels = []
    for level, traces in by_level.items():
        training = tuple(trace for trace in traces if trace.prompt_id in folds)
        levels.append(
            LevelData(
                compression=level,
                costs=log.costs[level],
                training=training,
                folds=np.array([folds[trace.prompt_id] for trace in training]),
                validation=tuple(trace for trace in traces if trace.prompt_id in validation),
            )
        )
    return levels


def _sampled(
    log: StepLog, compressions: Sequence[str], seed: int, max_positions: int | None
) -> dict[str, list[PromptTrace]]:
    """Level -> traces of the prompts with the smallest random keys that fit, in the order of the log."""
    by_level: dict[str, list[PromptTrace]] = {}
    border = 1.0  # prompts with larger keys are left out, at all levels
    for level in compressions:
        kept: list[PromptTrace] = []
        for shard in log.iter_shards(level):
            chosen = [trace for trace in shard if _key(trace.prompt_id, seed) < border]
            if max_positions is not None:
                border = min(border, _border(kept + chosen, seed, max_positions / len(compressions)))
                kept = [trace for trace in kept if _key(trace.prompt_id, seed) < border]
                chosen = [_copied(trace) for trace in chosen if _key(trace.prompt_id, seed) < border]
            kept += chosen
        by_level[level] = kept
    return {
        level: [trace for trace in traces if _key(trace.prompt_id, seed) < border] for level, traces in by_level.items()
    }


def _copied(trace: PromptTrace) -> PromptTrace:
    """The trace with arrays of its own: as it is read, one prompt's arrays keep those of its whole shard."""

    def own(value: Any) -> Any:
        return value.copy() if isinstance(value, np.ndarray) else value

    changes = {field.name: own(getattr(trace, field.name)) for field in fields(trace) if field.init}
    if trace.branches is not None:
        branches = trace.branches
        changes["branches"] = Branches(**{f.name: own(getattr(branches, f.name)) for f in fields(branches) if f.init})
    return PromptTrace(**changes)


def _border(traces: Sequence[PromptTrace], seed: int, max_positions: float) -> float:
    """The smallest random key that no longer fits; 1 where all fit."""
    num_positions = 0
    for key, count in sorted((_key(trace.prompt_id, seed), trace.num_positions) for trace in traces):
        num_positions += count
        if num_positions > max_positions:
            return key
    return 1.0


def _key(prompt_id: str, seed: int) -> float:
    """A random number in [0, 1) that depends on the prompt and the seed alone, the same for every level."""
    digest = hashlib.sha256(f"{seed}:{prompt_id}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def check_enough(traces: Sequence[PromptTrace], level: str, origin: str) -> None:
    """Raises InputError, with counts, where a level holds too little to train on."""
    num_prompts = len({trace.prompt_id for trace in traces if trace.num_positions > 1})
    num_positions = sum(trace.num_positions - 1 for trace in traces)
    if num_prompts < MIN_PROMPTS or num_positions < MIN_POSITIONS:
        raise InputError(
            f"log {origin} has {num_prompts} prompts and {num_positions} positions at {level}; at least {MIN_PROMPTS} "
            f"prompts and {MIN_POSITIONS} positions are needed: profile more prompts or more tokens"
        )


def split_prompts(tasks: Mapping[str, str], validation_share: float, seed: int) -> tuple[dict[str, int], set[str]]:
    """Training prompt -> fold, and the validation prompts; by kind of content where there are enough of each."""
    prompts = sorted(tasks)
    num_validation = max(1, round(validation_share * len(prompts)))
    kinds = [tasks[prompt] for prompt in prompts]
    counts = Counter(kinds)
    can_stratify = min(counts.values()) >= 2 and len(counts) <= min(num_validation, len(prompts) - num_validation)
    training, validation = train_test_split(
        prompts, test_size=num_validation, random_state=seed, stratify=kinds if can_stratify else None
    )
    # The split has shuffled them; by kind and then in turn spreads every kind over the folds.
    by_kind = sorted(training, key=lambda prompt: tasks[prompt])
    num_folds = min(MAX_FOLDS, len(training))
    return {prompt: index % num_folds for index, prompt in enumerate(by_kind)}, set(validation)
