"""Engines: who records the shards that a log lacks, this process or Ray's workers with one model each.

The shards are the same whoever records them.
"""

import importlib.util
from collections.abc import Sequence

from specbound.decoding.model.adapter import ModelAdapter
from specbound_controller.errors import MissingExtraError
from specbound_profiling.recording.blocks import Block, Engine, Progress, Recording, Write, record_block
from specbound_profiling.recording.record import Recorder


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
