"""Traces of tiny models, and what they are recorded from."""

from collections.abc import Sequence

import torch

from specbound.decoding.model.adapter import ModelAdapter
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.recording.record import Recorder
from specbound_profiling.recording.settings import RecordSettings


def prompt(seed: int, length: int = 6) -> torch.Tensor:
    """Random token ids. (1, length)"""
    return torch.randint(2, 60, (1, length), generator=torch.Generator().manual_seed(seed))


def record_continuation(
    adapter: ModelAdapter, ids: torch.Tensor, exit_layers: Sequence[int], max_new_tokens: int, eos: tuple[int, ...] = ()
) -> PromptTrace:
    """One prompt greedily at the token level, without roll-outs. ids: (1, T)"""
    return Recorder(adapter, RecordSettings(tuple(exit_layers), max_new_tokens, eos)).record(ids)
