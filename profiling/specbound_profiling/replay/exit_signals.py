"""What scores of signals read, for all rows of some traces at once, and such scores along drafts. Knows no policy."""

# N rows of a batch, M rows of its branches, E exit layers, S signals, J draft tokens

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from specbound_controller.baselines.signal_score import SignalScore
from specbound_controller.lookup import LOOKUP_EXIT, lookup_length
from specbound_controller.score import SIGNAL_NAMES, signal_array
from specbound_profiling.log.trace import Branches, PromptTrace

if TYPE_CHECKING:
    from specbound_profiling.replay.outcomes import TraceBatch

_DRAFT_INDEX = SIGNAL_NAMES.index("draft_index")


def exit_signals(sources: Sequence[PromptTrace] | Sequence[Branches], exit_layers: Sequence[int]) -> np.ndarray:
    """What a learned score reads at every row of some traces or branches, draft index 0. (rows, E, S) float32"""

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


def position_scores(
    batch: "TraceBatch", score: SignalScore, exit_layers: Sequence[int], longest: int
) -> tuple[np.ndarray, np.ndarray]:
    """A score that may read the draft index, without features: along the draft of a step that begins at each row, and
    at the rows of the branches; other exits stay nan. (N, J, E) and (M, J, E) float64"""
    found = [trace.branches for trace in batch.traces if trace.branches is not None]
    signals = np.concatenate([exit_signals(sources, batch.exit_layers) for sources in (batch.traces, found) if sources])
    values = np.full((len(signals), longest, len(batch.exit_layers)), np.nan)
    no_features, layers = np.empty((len(signals), 0)), np.empty(len(signals), dtype=np.int64)
    for draft_index in range(longest):
        signals[..., _DRAFT_INDEX] = draft_index
        for exit_layer in exit_layers:
            index, layers[:] = batch.exit_index(exit_layer), exit_layer
            values[:, draft_index, index] = score.probabilities_at(signals[:, index], layers, no_features)
    steps = np.arange(longest)
    rows = np.minimum(np.arange(batch.num_rows)[:, None] + steps, batch.last_row[:, None])
    return values[rows, steps], values[batch.num_rows :]
