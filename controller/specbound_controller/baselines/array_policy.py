"""A policy with a state for each sequence, written once, in arrays: one sequence is a batch of one."""

# B sequences, R of them that take a step, F features, W work counts

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from specbound_controller.costs import WORK_NAMES
from specbound_controller.records import Decision, StepRecord
from specbound_controller.step_batch import Choices, StepBatch
from specbound_controller.work import record_work

_ONLY = np.zeros(1, dtype=np.int64)
"""The rows of a batch of one."""
_NO_WORK = np.zeros((1, len(WORK_NAMES)))


@dataclass(frozen=True, slots=True, eq=False)
class Taken:
    """What steps did, as far as these policies look at it."""

    num_drafted: np.ndarray
    """(R,)"""
    num_accepted: np.ndarray
    """(R,)"""
    num_emitted: np.ndarray
    """(R,)"""
    context_length: np.ndarray
    """Committed tokens before each step. (R,)"""
    work: np.ndarray
    """(R, W), for policies with `needs_work`; others may find zeros."""


class ArrayPolicy(ABC):
    """`decide` and `observe` by way of `choose` and `learn`."""

    needs_features = False
    needs_full_signals = False
    needs_work = False
    """Whether `learn` reads the steps' work; live decoding counts it for those only."""
    decisions: Sequence[Decision]
    """All that it may choose."""

    @abstractmethod
    def reset_batch(self, num_sequences: int) -> None:
        """Begins so many sequences anew."""

    @abstractmethod
    def choose(self, features: np.ndarray | None, rows: np.ndarray) -> np.ndarray:
        """Index into `decisions` for the steps that some sequences begin. features: (R, F), rows: (R,) -> (R,)"""

    @abstractmethod
    def learn(self, rows: np.ndarray, taken: Taken) -> None:
        """Sees what those steps did."""

    def reset(self) -> None:
        """Forgets the last prompt."""
        self.reset_batch(1)

    def decide(self, features: np.ndarray | None) -> Decision:
        """The decision for the step that begins. features: (F,)"""
        return self.decisions[int(self.choose(None if features is None else features[None], _ONLY)[0])]

    def observe(self, record: StepRecord) -> None:
        """Sees what the step did."""
        counts = (record.num_drafted, record.num_accepted, record.num_emitted, record.context_length)
        drafted, accepted, emitted, context = (np.array([count]) for count in counts)
        work = record_work(record, self.needs_features)[None] if self.needs_work else _NO_WORK
        self.learn(_ONLY, Taken(drafted, accepted, emitted, context, work))

    def decide_batch(self, features: np.ndarray | None, rows: np.ndarray) -> Choices:
        """The decisions for the steps that some sequences begin."""
        return Choices(self.choose(features, rows), np.zeros(len(rows), dtype=bool))

    def observe_batch(self, rows: np.ndarray, steps: StepBatch) -> None:
        """Sees what those steps did."""
        self.learn(
            rows, Taken(steps.num_drafted, steps.num_accepted, steps.num_emitted, steps.context_length, steps.work)
        )
