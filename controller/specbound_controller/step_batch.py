"""One step of many sequences at once, and what a policy chose for them: the arrays of replay. Knows no trace."""

# R sequences that take a step, W work counts

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Choices:
    """What a policy decides for some sequences."""

    decision: np.ndarray
    """Index into the policy's `decisions`. (R,) int64"""
    wants_full_signals: np.ndarray
    """Whether the step's record must hold the full model's signals. (R,) bool"""


@dataclass(frozen=True, slots=True, eq=False)
class StepBatch:
    """What `StepRecord` says of one step, for many sequences: the parts that features and the guard read."""

    context_length: np.ndarray
    """Committed tokens before the step. (R,) int64"""
    num_drafted: np.ndarray
    """(R,) int64"""
    num_accepted: np.ndarray
    """(R,) int64"""
    num_emitted: np.ndarray
    """(R,) int64"""
    exit_layer: np.ndarray
    """Exit layer of the last draft token, 0 without one. (R,) int64"""
    stop_reason: np.ndarray
    """Index into `STOP_REASONS`. (R,) int64"""
    draft_signals: np.ndarray
    """Flag, last and mean confidence and entropy of the drafts at their exits; zeros if none was tested: flag, last
    confidence, last entropy, mean confidence, mean entropy. (R, 5) float64"""
    full_signals: np.ndarray
    """Flag, confidence, entropy and margin of the full model at the last committed position; zeros where they were not
    wanted. (R, 4) float64"""
    work: np.ndarray
    """In the order of `WORK_NAMES`, the policy's own included. (R, W) float64"""
