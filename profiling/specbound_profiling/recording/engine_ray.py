"""Recording on Ray: one actor, one model, one GPU where the run uses GPUs; blocks go to whichever actor is free.

Ray places and restarts the actors. Knows no file, so that only the process that writes the log needs its folder.
"""

import logging
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import torch
import transformers
from ray.exceptions import RayError, RayTaskError
from ray.util import ActorPool

from specbound.decoding.model.adapter import ModelAdapter
from specbound.models.fingerprint import model_fingerprint
from specbound.models.loading import load_model
from specbound_controller.errors import InputError
from specbound_controller.fingerprint import same_model
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.recording.blocks import Block, Engine, Progress, Recording, Write, record_block
from specbound_profiling.recording.record import Recorder

NUM_RESTARTS = 2
"""How often Ray starts a worker again that has died, and gives it its block once more."""


class Worker:
    """A model in a process of its own."""

    def __init__(self, model: str, recording: Recording, device: str, num_threads: int) -> None:
        self._model, self._recording, self._device = model, recording, device
        self._recorder: Recorder | None = None
        torch.set_num_threads(num_threads)
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()

    def record(self, block: Block) -> tuple[int, list[PromptTrace]]:
        """The block's shard and its traces; loads the model first where this is the first one."""
        if self._recorder is None:  # not in __init__, whose errors Ray passes on as text only
            self._recorder = self._load()
        return block.shard, record_block(self._recorder, block, self._recording.compression)

    def _load(self) -> Recorder:
        wanted = self._recording
        loaded = load_model(self._model, wanted.compression, self._device)
        if not same_model(model_fingerprint(loaded.model), wanted.model_fingerprint):
            raise InputError(f"model must be the same on every node, got another {self._model!r} on {platform.node()}")
        return Recorder(ModelAdapter(loaded.model), wanted.settings, wanted.exactness)


def record_on_ray(
    engine: Engine, device: str, recording: Recording, blocks: Sequence[Block], write: Write, bar: Progress
) -> None:
    """Records blocks on the cluster and hands each to `write` here as soon as it is complete.

    Args:
        engine: names the model and the number of actors, of which there are never more than blocks.
        device: kind of device; `cuda` gives every actor a GPU of its own.

    Raises:
        InputError: the cluster has no room for so many workers, or a worker cannot use the model.
    """
    num_threads = torch.get_num_threads()
    wants = {"CPU": num_threads} | ({"GPU": 1} if device == "cuda" else {})
    with _cluster():
        number = min(_num_workers(engine.num_workers, wants), len(blocks))
        actor = ray.remote(Worker).options(
            num_cpus=num_threads,
            num_gpus=wants.get("GPU", 0),
            max_restarts=NUM_RESTARTS,
            max_task_retries=NUM_RESTARTS,
        )
        model = _named_from_anywhere(engine.model)
        workers: list[Any] = [actor.remote(model, recording, device, num_threads) for _ in range(number)]
        try:
            for shard, traces in ActorPool(workers).map_unordered(_record, list(blocks)):
                write(shard, traces)
                for trace in traces:
                    bar.token(trace.num_positions)
                    bar.prompt()
        except RayTaskError as error:
            raise error.cause from None  # the worker's own error, in one line
        except RayError as error:
            reason = str(error).strip().splitlines()[0]
            raise RuntimeError(f"Ray stopped: {reason}; the same command goes on where it stopped") from error
        finally:
            for worker in workers:
                ray.kill(worker)


def _record(worker: Any, block: Block) -> Any:
    return worker.record.remote(block)


@contextmanager
def _cluster() -> Iterator[None]:
    """The cluster of RAY_ADDRESS or of `ray start` on this machine; without one, this machine's own for this run."""
    is_ours = not ray.is_initialized()
    if is_ours:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing goes out that the user did not ask for
        ray.init(logging_level=logging.ERROR, log_to_driver=False)
    try:
        yield
    finally:
        if is_ours:
            ray.shutdown()


def _num_workers(asked: int | None, wants: dict[str, int]) -> int:
    """How many actors fit into the cluster; more than that would wait for ever."""
    there = ray.cluster_resources()
    room = min(int(there.get(name, 0) // amount) for name, amount in wants.items())
    if room < 1 or (asked or 1) > room:
        needs = " and ".join(f"{amount} {name}" for name, amount in wants.items())
        has = " and ".join(f"{there.get(name, 0):.0f} {name}" for name in wants)
        raise InputError(f"num_workers must be <= {room} where each takes {needs} of the cluster's {has}, got {asked}")
    return room if asked is None else asked


def _named_from_anywhere(model: str) -> str:
    """A folder by its whole path: workers start elsewhere."""
    folder = Path(model).expanduser()
    return str(folder.resolve()) if model != "demo" and folder.exists() else model
