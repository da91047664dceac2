"""What scores of signals read, for all rows of some traces at once. Knows no policy."""

# N rows, R all rows of the sources, E exit layers, S signals

from collections.abc import Sequence

import numpy as np

from specbound_controller.lookup import LOOKUP_EXIT, lookup_length
from specbound_controller.score import signal_array
from specbound_profiling.log.branches import Branches
from specbound_profiling.log.later import Later
from specbound_profiling.log.trace import PromptTrace


def exit_signals(sources: Sequence[PromptTrace | Later] | Sequence[Branches], exit_layers: Sequence[int]) -> np.ndarray:
    """What a learned score reads at every row of traces, later drafts or branches; draft index 0. (R, E, S)"""

    def column(name: str) -> np.ndarray:
        return np.concatenate([getattr(source, name) for source in sources])

    confidence = column("confidence")
    return signal_array(
        confidence,
        column("entropy_nats"),
        column("margin"),
        column("noised_margin"),
        column("draft_probability"),
        np.zeros_like(confidence),
        *_lookup_signals(column("draft_token"), confidence, column("draft_probability"), exit_layers),
    )


def _lookup_signals(
    draft_token: np.ndarray, confidence: np.ndarray, probability: np.ndarray, exit_layers: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Agreement of each exit with the context, length of the match and probability; zeros where the context was not
    recorded. 3 x (N, E)

    draft_token, confidence, probability: of the exits. (N, E) each
    """
    if exit_layers[0] != LOOKUP_EXIT:
        return (np.zeros(draft_token.shape),) * 3
    length = np.broadcast_to(lookup_length(confidence[:, :1]), draft_token.shape)
    agreement = np.where(draft_token == draft_token[:, :1], 1, -1) * (length > 0)
    return agreement, length, np.broadcast_to(probability[:, :1], draft_token.shape)
