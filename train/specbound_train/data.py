"""Reads step logs, as much of them as memory allows, and splits them by prompt. Knows no network."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from sklearn.model_selection import train_test_split

from specbound_controller.costs import CostTable
from specbound_controller.draft_vocabulary import describe
from specbound_controller.errors import InputError
from specbound_controller.fingerprint import exact_part, same_model
from specbound_profiling.log.branches import Branches
from specbound_profiling.log.later import Later
from specbound_profiling.log.store import StepLog
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.prompts.spec_bench import SPLITS, refuse_split

MIN_PROMPTS = 3
"""Fewest prompts to train on: two to fit and to end the fits, one to judge."""
MIN_POSITIONS = 32
"""Fewest generated tokens beyond the first of each prompt, over all prompts of a level."""
MAX_FOLDS = 4
"""Most folds of the training prompts: networks are fitted on all but one of them and judged on that one."""


@dataclass(frozen=True, slots=True, eq=False)
class LevelData:
    """Traces of one compression level and one way to choose tokens, of all logs, split by prompt."""

    compression: str
    costs: CostTable
    """Of the first log that has a table for the compression level: the same for all of its traces."""
    training: tuple[PromptTrace, ...]
    """Prompts that networks are fitted and settings chosen on."""
    folds: np.ndarray
    """Fold of each training prompt, from 0. (number of training prompts,) int64"""
    validation: tuple[PromptTrace, ...]
    """Prompts that only judge."""
    sampling_temperature: float = 0.0
    """What divided the logits before sampling; 0 under greedy decoding."""

    @property
    def name(self) -> str:
        """The compression level, and the temperature where the text was sampled."""
        sampled = self.sampling_temperature > 0
        return f"{self.compression} at temperature {self.sampling_temperature:g}" if sampled else self.compression

    @property
    def num_positions(self) -> int:
        """Tokens that steps emit, over all prompts."""
        return sum(trace.num_positions - 1 for trace in self.training + self.validation)


def load_levels(
    logs: Sequence[StepLog],
    validation_share: float,
    seed: int,
    compressions: Sequence[str] | None = None,
    max_positions: int | None = None,
) -> list[LevelData]:
    """Compression levels and sampling temperatures of some logs of one model, in the order of the logs.

    A prompt is on the same side of the split at all of them. Where two logs hold the same text of a prompt, it counts
    once.

    Args:
        compressions: Levels to read; None takes all of the logs.
        max_positions: Most generated tokens over all levels; None takes all. Of larger logs the same random choice of
            the prompts is taken at every level; no more than it and one shard are held at a time.

    Raises:
        InputError: logs that do not fit together, too few prompts or positions, a level that no log holds, or no cost
            table for one.
    """
    check_alike(logs)
    held = dict.fromkeys(level for log in logs for level in log.manifest.compressions)
    chosen = tuple(held) if compressions is None else tuple(compressions)
    for level in chosen:
        if level not in held:
            raise InputError(f"compression must be one of the log's {', '.join(held)}, got {level!r} ({_roots(logs)})")
    costs = {level: _costs(logs, level) for level in chosen}
    by_kind: dict[tuple[str, float], dict[tuple[str, bytes], PromptTrace]] = {}
    sources = [(log, level) for level in chosen for log in logs if level in log.manifest.compressions]
    for (log, level), traces in zip(sources, _sampled(sources, seed, max_positions), strict=True):
        unique = by_kind.setdefault((level, log.manifest.sampling_temperature), {})
        for trace in traces:
            unique.setdefault((trace.prompt_id, trace.tokens.tobytes()), trace)
    kinds: dict[tuple[str, float], list[PromptTrace]] = {}
    for kind, found in by_kind.items():
        check_enough(list(found.values()), kind[0], _roots(logs))
        kinds[kind] = [trace for trace in found.values() if trace.num_positions > 1]  # the others hold no step
    tasks = {trace.prompt_id: trace.task for traces in kinds.values() for trace in traces}
    folds, validation = split_prompts(tasks, validation_share, seed)
    levels = []
    for (level, temperature), traces in kinds.items():
        training = tuple(trace for trace in traces if trace.prompt_id in folds)
        levels.append(
            LevelData(
                compression=level,
                costs=costs[level],
                training=training,
                folds=np.array([folds[trace.prompt_id] for trace in training]),
                validation=tuple(trace for trace in traces if trace.prompt_id in validation),
                sampling_temperature=temperature,
            )
        )
    return levels


def check_alike(logs: Sequence[StepLog]) -> None:
    """Raises InputError, naming both logs and values, where two cannot train one controller together, or one is of
    prompts that are not for training."""
    first = logs[0]
    for log in logs:
        refuse_split(log.manifest.prompts, SPLITS, "training")
    seen: dict[str, StepLog] = {}
    for log in logs:
        _require_one_model(first, log)
        for name in ("num_layers", "exit_layers", "temperatures", "eos_token_ids"):
            _require_equal(name, first, getattr(first.manifest, name), log, getattr(log.manifest, name))
        drafted = (describe(first.manifest.drafted_tokens()), describe(log.manifest.drafted_tokens()))
        _require_equal("draft_vocabulary", first, drafted[0], log, drafted[1])
        for level in log.manifest.compressions:
            other = seen.setdefault(level, log)
            exactness = (other.manifest.exactness_of(level), log.manifest.exactness_of(level))
            _require_equal(f"exactness of {level}", other, exactness[0], log, exactness[1])


def _require_one_model(first: StepLog, second: StepLog) -> None:
    own, other = first.manifest.model_fingerprint, second.manifest.model_fingerprint
    if not same_model(own, other):
        _require_equal("model_fingerprint", first, exact_part(own), second, exact_part(other))


def _require_equal(name: str, first: StepLog, value: object, second: StepLog, other: object) -> None:
    if value != other:
        raise InputError(
            f"logs must be of one model and recorded alike: {name} is {value} in {first.root} and {other} in "
            f"{second.root}; profile again, or train on one of them"
        )


def _costs(logs: Sequence[StepLog], level: str) -> CostTable:
    """The first log's table for a level."""
    for log in logs:
        if level in log.costs and level in log.manifest.compressions:
            return log.costs[level]
    raise InputError(f"log {_roots(logs)} has no cost table for {level}; profile again to measure one")


def _roots(logs: Sequence[StepLog]) -> str:
    return ", ".join(str(log.root) for log in logs)


def _sampled(sources: Sequence[tuple[StepLog, str]], seed: int, max_positions: int | None) -> list[list[PromptTrace]]:
    """Traces of each log and level: of the prompts with the smallest random keys that fit, in the order of the log."""
    by_source: list[list[PromptTrace]] = []
    border = 1.0  # prompts with larger keys are left out, everywhere
    for log, level in sources:
        kept: list[PromptTrace] = []
        for shard in log.iter_shards(level):
            chosen = [trace for trace in shard if _key(trace.prompt_id, seed) < border]
            if max_positions is not None:
                border = min(border, _border(kept + chosen, seed, max_positions / len(sources)))
                kept = [trace for trace in kept if _key(trace.prompt_id, seed) < border]
                chosen = [_copied(trace) for trace in chosen if _key(trace.prompt_id, seed) < border]
            kept += chosen
        by_source.append(kept)
    return [[trace for trace in traces if _key(trace.prompt_id, seed) < border] for traces in by_source]


def _copied(trace: PromptTrace) -> PromptTrace:
    """The trace with arrays of its own: as it is read, one prompt's arrays keep those of its whole shard."""

    def own(value: Any) -> Any:
        return value.copy() if isinstance(value, np.ndarray) else value

    changes = {field.name: own(getattr(trace, field.name)) for field in fields(trace) if field.init}
    if trace.branches is not None:
        branches = trace.branches
        changes["branches"] = Branches(**{f.name: own(getattr(branches, f.name)) for f in fields(branches) if f.init})
    changes["later"] = tuple(
        Later(**{f.name: own(getattr(each, f.name)) for f in fields(each)}) for each in trace.later
    )
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
