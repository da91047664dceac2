"""Times the steps of live decoding, and how fast the machine is meanwhile.

After every step a small probe, always the same piece of the model, is timed too. What else runs on a machine (and in
its shared caches) slows probe and steps down alike, so a step's seconds are brought to one speed: measured seconds,
times the probe's usual seconds over its seconds around that step.
"""

# S steps

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.ndimage import median_filter
from torch import Tensor

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.model.adapter import ModelAdapter
from specbound_controller.records import StepRecord

PROBE_SHARE = 8
"""The probe runs one of so many layers."""
WINDOW = 15
"""Probes around a step whose median is the speed there."""


@dataclass(frozen=True, slots=True, eq=False)
class TimedSteps:
    """Steps in the order in which they were taken."""

    records: list[StepRecord]
    seconds: np.ndarray
    """As measured. (S,)"""
    probe_s: np.ndarray
    """Seconds of the probe after each step. (S,)"""

    def at_speed(self, probe_s: float) -> np.ndarray:
        """Seconds that the steps would have taken on the machine as it is when the probe takes `probe_s`. (S,)"""
        if not len(self.seconds):
            return self.seconds
        scaled: np.ndarray = self.seconds * probe_s / median_filter(self.probe_s, WINDOW, mode="nearest")
        return scaled


def joined(parts: list[TimedSteps]) -> TimedSteps:
    """All steps, one after another."""
    return TimedSteps(
        [record for part in parts for record in part.records],
        np.concatenate([part.seconds for part in parts]),
        np.concatenate([part.probe_s for part in parts]),
    )


class Stopwatch:
    """Decodes with one decoder and times the steps."""

    def __init__(self, decoder: SpecBoundDecoder) -> None:
        self.decoder, self.clock = decoder, step_clock(decoder.adapter.device)
        self.probe = Probe(decoder.adapter, self.clock)

    def decode(self, ids: Tensor, max_new_tokens: int) -> TimedSteps:
        """Decodes one prompt. ids: (1, T). The first step is left out: its time began in prefill."""
        ended = float("nan")
        seconds, probes = list[float](), list[float]()

        def mark(record: StepRecord, row: int) -> None:
            nonlocal ended
            seconds.append(self.clock() - ended)
            probes.append(self.probe())
            ended = self.clock()

        output = self.decoder.decode([ids], max_new_tokens=max_new_tokens, on_step=mark)
        return TimedSteps(output.stats.steps[1:], np.array(seconds[1:]), np.array(probes[1:]))


class Probe:
    """The last layers and the head on one token: what a step ends with, so that it leaves the caches as they were."""

    def __init__(self, adapter: ModelAdapter, clock: Callable[[], float]) -> None:
        self._adapter, self._clock = adapter, clock
        self._cache = adapter.new_cache(4)
        token = torch.zeros(1, 1, dtype=torch.int64, device=adapter.device)
        self._hidden = adapter.embed(token, 0).detach()

    @torch.inference_mode()
    def __call__(self) -> float:
        """Seconds of the probe."""
        adapter = self._adapter
        first = adapter.num_layers - max(1, adapter.num_layers // PROBE_SHARE)
        started = self._clock()
        hidden = adapter.run_layers(self._hidden, first, adapter.num_layers, self._cache, 0)
        int(adapter.read_head(hidden).argmax())  # waits for the device
        seconds = self._clock() - started
        self._cache.truncate(0)
        return seconds


@contextmanager
def inside_seconds(adapter: Any, clock: Callable[[], float]) -> Iterator[list[float]]:
    """Seconds of every run of layers and every read of the head, as they come. For a CPU: a call waits for its end."""
    seconds: list[float] = []

    def timed(call: Callable[..., Any], *arguments: Any) -> Any:
        started = clock()
        result = call(*arguments)
        seconds.append(clock() - started)
        return result

    names = ("_run_lean", "_run_modules", "read_head")
    for name in names:
        setattr(adapter, name, partial(timed, getattr(adapter, name)))
    try:
        yield seconds
    finally:
        for name in names:
            delattr(adapter, name)


def step_clock(device: torch.device) -> Callable[[], float]:
    """The thread's CPU time where one CPU thread does all the work, else the wall clock. Seconds."""
    return time.thread_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
