"""CUDA graphs of computations that read and write tensors which keep their addresses. Knows nothing of layers."""

import contextlib
import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from specbound_controller.errors import UnsupportedModelError

_one_at_a_time = threading.Lock()
"""torch allows one capture at a time in a process."""
_MODE = "thread_local"
"""What other threads do on the device meanwhile neither fails nor spoils the capture."""


class GraphCapture:
    """Captures computations as CUDA graphs, which share the memory of what lies between their inputs and outputs.

    The graphs of one capture must be replayed one after the other. Their memory is free when the last one is gone.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        """name: of the model, for errors."""
        self.name, self.device = name, device
        self._stream = torch.cuda.Stream(device)
        self._pool: Any = None
        self._alive: weakref.WeakSet[Callable[[], Tensor]] = weakref.WeakSet()

    def __call__(self, compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """A function that replays `compute`, whose result lies at the same place every time.

        Raises:
            UnsupportedModelError: the computation waits for the device or allocates behind the allocator's back.
            torch.OutOfMemoryError: the device has no room for it.
        """
        # torch's graph context leaves its stream as the current one where a capture fails: this one takes it back
        with _one_at_a_time, torch.cuda.device(self.device), torch.cuda.stream(torch.cuda.current_stream(self.device)):
            try:
                graph, output = self._captured(compute)
            except torch.OutOfMemoryError:
                self._end_failed()
                raise
            except RuntimeError as error:
                self._end_failed()
                raise UnsupportedModelError(
                    f"{self.name}: compile=True needs layers that a CUDA graph can capture, got: {first_reason(error)}"
                ) from error

        def replay() -> Tensor:
            graph.replay()
            return output

        self._alive.add(replay)
        return replay

    def _captured(self, compute: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            compute()  # libraries open their handles for this stream here, which no capture allows
        current.wait_stream(self._stream)
        if not self._alive:  # a pool ends with its last graph: torch may refuse to begin it again
            self._pool = torch.cuda.graph_pool_handle()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode=_MODE):
            output = compute()
        return graph, output

    def _end_failed(self) -> None:
        """After a failed capture torch's generator of random numbers takes itself for captured, and drawing fails: a
        capture that ends as it should takes it out of that state."""
        with contextlib.suppress(RuntimeError), torch.cuda.stream(torch.cuda.current_stream(self.device)):
            stream = torch.cuda.Stream(self.device)
            with torch.cuda.graph(torch.cuda.CUDAGraph(), stream=stream, capture_error_mode=_MODE):
                torch.zeros(1, device=self.device)


def first_reason(error: BaseException) -> str:
    """The first line of what went wrong first: ending a capture that has failed raises another error on top."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error).splitlines()[0] if str(error) else type(error).__name__
