"""Statistics of logits: confidence, entropy, margin. One definition for decoder and profiler."""

from typing import NamedTuple

import torch
from torch import Tensor

# n rows, V vocabulary


class LogitStatistics(NamedTuple):
    """Per row of logits; float32."""

    top_token: Tensor
    """(n,) int64: the most probable token; of several, which 16 bits often have, the first, as at verification."""
    confidence: Tensor
    """(n,): largest softmax probability at temperature 1."""
    entropy_nats: Tensor
    """(n,)"""
    margin: Tensor
    """(n,): largest minus second largest log-probability."""


def logit_statistics(logits: Tensor) -> LogitStatistics:
    """Confidence, entropy and top-2 margin of each row. logits: (n, V)"""
    scores = logits.float()
    top = scores.topk(2, dim=-1).values
    log_normaliser = scores.logsumexp(-1)
    probabilities = (scores - log_normaliser.unsqueeze(-1)).exp_()
    entropy = log_normaliser - torch.linalg.vecdot(probabilities, scores)
    return LogitStatistics(scores.argmax(-1), (top[:, 0] - log_normaliser).exp(), entropy, top[:, 0] - top[:, 1])


def tempered_confidence(logits: Tensor, temperature: float) -> Tensor:
    """Largest softmax probability after dividing by a temperature (SpecBound, ACT). (n, V) -> (n,)"""
    scaled = logits.float() / temperature
    return (scaled.amax(-1) - scaled.logsumexp(-1)).exp()
