"""Engines: who records the shards that a log lacks, this process or Ray's workers with one model each.

The shards are the same whoever records them. Knows no file: what is recorded is handed to the caller, shard by shard.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from specbound.decoding.model.adapter import ModelAdapter
from specbound_controller.errors import MissingExtraError
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.prompts.files import Prompt
from specbound_profiling.recording.record import Recorder, RecordSettings

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


def require_engine(name: str) -> None:
    """Raises MissingExtraError where the engine's package is not installed."""
    if name == "ray" and importlib.util.find_spec("ray") is None:
        raise MissingExtraError("engine ray", "ray")


def record_shards(
    engine: Engine, adapter: ModelAdapter, recording: Recording, blocks: Sequence[Block], write: Write, bar: Progress
) -> None:
    """Records blocks and hands each to `write` as soon as it is complete, in any order.

    adapter: the model of this process; Ray's workers load their own on the same kind of device.
    """
    if engine.name == "ray":
        from specbound_profiling.recording.engine_ray import record_on_ray

        record_on_ray(engine, adapter.device.type, recording, blocks, write, bar)
        return
    recorder = Recorder(adapter, recording.settings, recording.exactness)
    for block in blocks:
        write(block.shard, record_block(recorder, block, recording.compression, bar))


def record_block(recorder: Recorder, block: Block, compression: str, bar: Progress | None = None) -> list[PromptTrace]:
    """The traces of a block's prompts, in order."""
    traces = []
    for offset, (prompt, ids) in enumerate(zip(block.prompts, block.prompt_ids, strict=True)):
        trace = recorder.record(ids, block.first + offset, None if bar is None else bar.token)
        traces.append(replace(trace, prompt_id=prompt.prompt_id, task=prompt.task, compression=compression))
        if bar is not None:
            bar.prompt()
    return traces
