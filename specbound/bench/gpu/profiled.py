"""What torch's profiler saw between two moments: kernels that were launched, times at which the host waited.

Names are CUDA's; on a CPU all counts are 0.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")
GRAPHS = ("cudaGraphLaunch",)
TO_HOST, TO_DEVICE = "Memcpy DtoH", "Memcpy HtoD"
"""Beginnings of names: what kind of memory it was stands behind."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Counts of what happened."""

    names: Counter[str]
    """Name of an event -> how often."""

    def calls(self, functions: tuple[str, ...]) -> int:
        """Calls of some functions of CUDA, whatever their version."""
        return sum(number for name, number in self.names.items() if name.split("_v")[0] in functions)

    def copies(self, direction: str) -> int:
        """Copies between host and device."""
        return sum(number for name, number in self.names.items() if name.startswith(direction))


class Watch:
    """A profiler that is started and stopped from inside a run."""

    def __init__(self, device: torch.device) -> None:
        kind = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
        self._profile = profile(activities=[kind])

    def start(self) -> None:
        """From here on everything is seen."""
        self._profile.start()

    def stop(self) -> Seen:
        """What was seen since the start. Read from the trace: torch's own summary takes seconds."""
        self._profile.stop()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json"
            self._profile.export_chrome_trace(str(path))
            events = json.loads(path.read_text(encoding="utf-8", errors="replace"))["traceEvents"]
        return Seen(Counter(event["name"] for event in events if event.get("ph") == "X"))


def watched(call: Callable[[], object], device: torch.device) -> Seen:
    """What one call does."""
    watch = Watch(device)
    watch.start()
    call()
    return watch.stop()
