"""What trained exits that read the full model's verified state say of a step's later drafts. Knows no file.

At a step's second draft that state lies one place farther back than at its first, and so on; such an exit then says
something else at the same position of the same text.
"""

# P positions, E exit layers, K temperatures, C candidates

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Later:
    """The columns of a trace, where each position is the same draft of its step: the second, or the third, ... What the
    context says (exit layer 0) is what it says of a first draft. The first positions of a prompt are no such drafts,
    and mean nothing."""

    draft_token: np.ndarray
    """(P, E) int64"""
    is_accepted: np.ndarray
    """(P, E) bool"""
    confidence: np.ndarray
    """(P, E) float32"""
    entropy_nats: np.ndarray
    """(P, E) float32"""
    margin: np.ndarray
    """(P, E) float32"""
    noised_margin: np.ndarray
    """(P, E) float32"""
    draft_probability: np.ndarray
    """(P, E) float32"""
    confidence_at: np.ndarray
    """(P, E, K) float32"""
    candidates: np.ndarray
    """(P, E, C) int64"""
    candidate_chances: np.ndarray
    """(P, E, C) float32"""
