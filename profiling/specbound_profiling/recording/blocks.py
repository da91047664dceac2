"""A recording in blocks, one a shard: what whoever records them is told, and how a block becomes traces.

Knows no file: what is recorded is handed to the caller, shard by shard.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.prompts.files import Prompt
from specbound_profiling.recording.record import Recorder
from specbound_profiling.recording.settings import RecordSettings

Write = Callable[[int, Sequence[PromptTrace]], None]
"""Takes a shard's number and its traces."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What every worker must know of a run."""

    model_fingerprint: str
    compression: str
    exactness: str
    settings: RecordSettings


@dataclass(frozen=True, slots=True)
class Engine:
    """Who records."""

    name: str = "local"
    """local or ray."""
    num_workers: int | None = None
    """Ray's workers; None takes as many as there is room for."""
    model: str = "demo"
    """What Ray's workers load: demo, a folder, or a Hugging Face name."""


LOCAL = Engine()


@dataclass(frozen=True, slots=True)
class Block:
    """The prompts of one shard."""

    shard: int
    first: int
    """Number of the first prompt, from which seeds and roll-outs follow."""
    prompts: tuple[Prompt, ...]
    prompt_ids: tuple[Tensor, ...]
    """(1, T) int64 each."""


class Progress(Protocol):
    """What is told how far a recording is."""

    def token(self, count: int = 1) -> None:
        """So many more tokens."""

    def prompt(self) -> None:
        """One more prompt is complete."""


def record_block(recorder: Recorder, block: Block, compression: str, bar: Progress | None = None) -> list[PromptTrace]:
    """The traces of a block's prompts, in order."""
    traces = []
    for offset, (prompt, ids) in enumerate(zip(block.prompts, block.prompt_ids, strict=True)):
        trace = recorder.record(ids, block.first + offset, None if bar is None else bar.token)
        traces.append(replace(trace, prompt_id=prompt.prompt_id, task=prompt.task, compression=compression))
        if bar is not None:
            bar.prompt()
    return traces
