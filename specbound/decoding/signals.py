"""Statistics of logits: confidence, entropy, margin. One definition for decoder and profiler."""

import math
from typing import NamedTuple

import numpy as np
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


class RowStatistics(NamedTuple):
    """The same of one row, on the host."""

    top_token: int
    confidence: float
    entropy_nats: float
    margin: float


def logit_statistics(logits: Tensor) -> LogitStatistics:
    """Confidence, entropy and top-2 margin of each row. logits: (n, V)"""
    scores = logits.detach().float()
    if scores.device.type == "cpu":
        tokens, *values = zip(*_cpu_statistics(scores), strict=True)
        return LogitStatistics(torch.tensor(tokens), *(torch.tensor(column) for column in values))
    top = scores.topk(2, dim=-1).values
    log_normaliser = scores.logsumexp(-1)
    probabilities = (scores - log_normaliser.unsqueeze(-1)).exp_()
    finite = scores.clamp_min(torch.finfo(scores.dtype).min)  # of -inf a share of 0 is 0
    entropy = log_normaliser - torch.linalg.vecdot(probabilities, finite)
    return LogitStatistics(scores.argmax(-1), (top[:, 0] - log_normaliser).exp(), entropy, top[:, 0] - top[:, 1])


def row_statistics(logits: Tensor) -> RowStatistics:
    """The statistics of one row on the host, in one transfer. logits: (1, V)"""
    if logits.device.type == "cpu":
        return _cpu_statistics(logits.detach().float())[0]
    token, *values = torch.cat([part.double() for part in logit_statistics(logits)]).tolist()
    return RowStatistics(int(token), *values)


def _cpu_statistics(scores: Tensor) -> list[RowStatistics]:
    """scores: (n, V) float32. On the host numpy finds the largest of a row 3 to 15 times as fast as torch."""
    found = []
    for row, probabilities in zip(scores.numpy(), scores.softmax(-1).numpy(), strict=True):
        top = int(row.argmax())
        total = float(probabilities.sum())  # 1 but for rounding, which a large vocabulary would add to the entropy
        best, confidence = float(row[top]), float(probabilities[top]) / total
        second = max((float(part[part.argmax()]) for part in (row[:top], row[top + 1 :]) if len(part)), default=best)
        with np.errstate(invalid="ignore"):
            mean = float(probabilities.dot(row))
        if math.isnan(mean):  # logits of -inf, which have no share in it
            is_possible = probabilities > 0
            mean = float(probabilities[is_possible].dot(row[is_possible]))
        entropy = best - math.log(confidence) - mean / total
        values = np.array((confidence, entropy, best - second), np.float32)  # what a log of them holds
        found.append(RowStatistics(top, *values.tolist()))
    return found


def best_tokens(logits: Tensor) -> list[int]:
    """The most probable token of each row, of equals the first. (n, V) -> n tokens"""
    if logits.device.type != "cpu":
        return logits.argmax(-1).tolist()
    best: np.ndarray = logits.detach().float().numpy().argmax(-1)  # float keeps order and ties of 16 bits
    return best.tolist()


def tempered_confidence(logits: Tensor, temperature: float) -> Tensor:
    """Largest softmax probability after dividing by a temperature (SpecBound, ACT). (n, V) -> (n,)"""
    return (logits.float() / temperature).softmax(-1).amax(-1)
