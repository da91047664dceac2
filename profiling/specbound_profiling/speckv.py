"""SpecKV's released measurements: the step log, the wall clock of its runs, and what both say. Fits nothing.

The files are those of arXiv 2605.02888: `phase2_step_results.csv`, one row for each step of a draft model with a fixed
draft length, and `phase2_experiment_results.csv`, one row for each run of such steps. The paths are the user's.
"""

# N steps, S signals, M runs

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from specbound_controller.errors import InputError
from specbound_controller.text_files import read_text

LEVELS = ("fp16", "int8", "nf4")
"""Compression levels of its target model, in the order in which its predictor counts them."""
SIGNALS = ("mean_draft_entropy", "mean_draft_confidence", "max_draft_entropy", "min_draft_confidence")
"""Signals of the tokens that a step drafted. (S,)"""
PUBLISHED = {"fixed 4": 3.73, "fixed, longest": 5.81, "speckv": 5.82}
"""Expected tokens per step over all levels, as its paper has them."""

Columns = dict[str, Callable[[str], object]]
"""Name of a column -> what makes a value of its text."""


@dataclass(frozen=True, slots=True, eq=False)
class SpecKVLog:
    """Steps, in the order of the file."""

    level: np.ndarray
    """Index into `LEVELS`. (N,) int64"""
    length: np.ndarray
    """Draft length (its gamma). (N,) int64"""
    task: np.ndarray
    """(N,) str"""
    step: np.ndarray
    """Number within its run, from 0. (N,) int64"""
    num_accepted: np.ndarray
    """(N,) int64"""
    acceptance: np.ndarray
    """Accepted over drafted. (N,) float64"""
    num_tokens: np.ndarray
    """Tokens that the step produced. (N,) int64"""
    signals: np.ndarray
    """Known only after the step has drafted. (N, S) float64"""

    @property
    def run(self) -> np.ndarray:
        """Number of the run that each step belongs to. (N,) int64"""
        return np.cumsum(self.step == 0) - 1

    @property
    def lengths(self) -> tuple[int, ...]:
        """Draft lengths that were tried, ascending."""
        return tuple(int(length) for length in np.unique(self.length))

    def published_features(self) -> np.ndarray:
        """What its predictor reads: signals of the step whose length it chooses, level, length. (N, S + 2)"""
        return np.column_stack([self.signals, self.level, self.length])

    def causal_features(self) -> np.ndarray:
        """The same with the signals of the step before, zeros in a run's first step. (N, S + 2)"""
        before = np.roll(self.signals, 1, axis=0)
        before[self.step == 0] = 0.0
        return np.column_stack([before, self.level, self.length])

    def choice_features(self) -> np.ndarray:
        """Level and length alone. (N, 2)"""
        return np.column_stack([self.level, self.length])


@dataclass(frozen=True, slots=True, eq=False)
class SpecKVClock:
    """Runs, in the order of the file: one prompt at one level with one draft length."""

    level: np.ndarray
    """(M,) int64"""
    length: np.ndarray
    """(M,) int64"""
    task: np.ndarray
    """(M,) str"""
    prompt: np.ndarray
    """Number of the prompt. (M,) int64"""
    num_tokens: np.ndarray
    """(M,) int64"""
    seconds: np.ndarray
    """(M,) float64"""
    num_steps: np.ndarray
    """(M,) int64"""
    tokens_per_second: np.ndarray
    """As the file has it. (M,) float64"""

    def speed(self, is_chosen: np.ndarray) -> float:
        """Mean over runs of tokens per second, as SpecKV's own tables take it. is_chosen: (M,) bool"""
        return float(self.tokens_per_second[is_chosen].mean())

    def pooled_speed(self, is_chosen: np.ndarray) -> float:
        """All tokens over all seconds."""
        return float(self.num_tokens[is_chosen].sum() / self.seconds[is_chosen].sum())


def read_steps(path: Path | str) -> SpecKVLog:
    """Reads `phase2_step_results.csv`. Raises InputError where a column is missing or a line is broken."""
    columns: Columns = {
        "compression": _level,
        "gamma": _count,
        "task": str,
        "step": _count,
        "accepted": _count,
        "acceptance_rate": _number,
        "tokens_produced": _count,
        **dict.fromkeys(SIGNALS, _number),
    }
    level, length, task, step, accepted, acceptance, tokens, *signals = _read(Path(path).expanduser(), columns)
    if step[0] != 0:
        raise InputError(f"{path}: a run must begin with step 0, got {step[0]}")
    return SpecKVLog(level, length, task, step, accepted, acceptance, tokens, np.column_stack(signals))


def read_clock(path: Path | str, log: SpecKVLog) -> SpecKVClock:
    """Reads `phase2_experiment_results.csv`. Raises InputError where its runs are not those of the step log."""
    columns: Columns = {
        "compression": _level,
        "gamma": _count,
        "task": str,
        "prompt": str,
        "num_tokens": _count,
        "elapsed_sec": _seconds,
        "num_steps": _count,
        "tokens_per_sec": _number,
    }
    level, length, task, texts, tokens, seconds, steps, speed = _read(Path(path).expanduser(), columns)
    prompt = np.unique(texts, return_inverse=True)[1]
    clock = SpecKVClock(level, length, task, prompt, tokens, seconds, steps, speed)
    run = log.run
    is_same = len(steps) == run[-1] + 1 and bool((np.bincount(run) == steps).all())
    for name in ("level", "length", "task"):
        is_same = is_same and bool((getattr(clock, name)[run] == getattr(log, name)).all())
    if not is_same:
        raise InputError(f"{path} must hold the runs of the step log, in its order; these are others")
    return clock


def _level(name: str) -> int:
    if name not in LEVELS:
        raise ValueError(f"compression must be one of {', '.join(LEVELS)}")
    return LEVELS.index(name)


def _count(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**31:
        raise ValueError("a count must be in [0, 2147483647]")
    return number


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number must be finite")
    return number


def _seconds(text: str) -> float:
    number = _number(text)
    if number <= 0:
        raise ValueError("seconds must be above 0")
    return number


def _read(path: Path, columns: Columns) -> list[np.ndarray]:
    """The named columns of a CSV file."""
    values: list[list[object]] = [[] for _ in columns]
    try:
        text = read_text(path)
    except InputError as error:
        raise InputError(f"speckv must name a readable CSV file: {error}") from None
    try:
        with io.StringIO(text, newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise InputError(f"{path} must have the column {missing[0]}; it is not one of SpecKV's files")
            for row in reader:
                for column, (name, parse) in zip(values, columns.items(), strict=True):
                    try:
                        column.append(parse(row[name]))
                    except (TypeError, ValueError) as error:
                        raise InputError(f"{path}:{reader.line_num}: {name} is {row[name]!r}: {error}") from None
    except csv.Error as error:
        raise InputError(f"speckv must name a CSV file, got {path} ({error})") from None
    if not values[0]:
        raise InputError(f"{path} must hold at least one row, got none")
    return [np.array(column) for column in values]


@dataclass(frozen=True, slots=True)
class FixedLength:
    """What one draft length did at one level."""

    level: str
    length: int
    num_runs: int
    """One for each prompt."""
    num_steps: int
    num_tokens: int
    tokens_per_step: float
    """Tokens produced over steps."""
    acceptance_rate: float
    """Accepted over drafted tokens."""
    tokens_per_second: float | None
    """Mean over runs, by the wall clock; None without its file."""
    pooled_tokens_per_second: float | None
    """All tokens over all seconds."""


def fixed_lengths(log: SpecKVLog, clock: SpecKVClock | None) -> list[FixedLength]:
    """Every draft length at every level, as it was measured."""
    found = []
    for index, level in enumerate(LEVELS):
        for length in log.lengths:
            steps = (log.level == index) & (log.length == length)
            if not steps.any():
                continue
            runs = None if clock is None else (clock.level == index) & (clock.length == length)
            found.append(
                FixedLength(
                    level=level,
                    length=length,
                    num_runs=int((steps & (log.step == 0)).sum()),
                    num_steps=int(steps.sum()),
                    num_tokens=int(log.num_tokens[steps].sum()),
                    tokens_per_step=float(log.num_tokens[steps].mean()),
                    acceptance_rate=float(log.num_accepted[steps].sum() / log.length[steps].sum()),
                    tokens_per_second=None if clock is None or runs is None else clock.speed(runs),
                    pooled_tokens_per_second=None if clock is None or runs is None else clock.pooled_speed(runs),
                )
            )
    return found


def expected_tokens(
    predict: Callable[[np.ndarray], np.ndarray], features: np.ndarray, lengths: Sequence[int]
) -> np.ndarray:
    """Tokens that a step would produce with each draft length, by a predictor of the acceptance rate. (N, lengths)

    features: (N, F), the length in the last column, which is replaced.
    """
    columns = []
    for length in lengths:
        wanted = features.copy()
        wanted[:, -1] = length
        columns.append(1.0 + length * np.clip(predict(wanted), 0.0, 1.0))
    return np.column_stack(columns)
