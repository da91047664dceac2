"""Seconds on a device: of a call to its end there, and of what the host alone does to give the orders."""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import torch

K = TypeVar("K", bound=Hashable)


def wait(device: torch.device) -> None:
    """Until the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def call_seconds(
    calls: Mapping[K, Callable[[], object]], device: torch.device, num_rounds: int, num_warm: int = 3
) -> dict[K, float]:
    """Median seconds of each call until the device is done, one after the other, again and again."""
    for _ in range(num_warm):
        for call in calls.values():
            call()
    found: dict[K, list[float]] = {name: [] for name in calls}
    for _ in range(num_rounds):
        for name, call in calls.items():
            wait(device)
            started = time.perf_counter()
            call()
            wait(device)
            found[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in found.items()}


def order_seconds(call: Callable[[], object], device: torch.device, num_rounds: int) -> float:
    """Median seconds after which the host goes on, before the device is done."""
    found = []
    for _ in range(num_rounds):
        wait(device)
        started = time.perf_counter()
        call()
        found.append(time.perf_counter() - started)
    wait(device)
    return statistics.median(found)


def device_seconds(call: Callable[[], object], device: torch.device, num_calls: int) -> float:
    """Seconds of one of many calls in a row between two events on the device; on the CPU by its clock."""
    call()
    wait(device)
    if device.type != "cuda":
        started = time.perf_counter()
        for _ in range(num_calls):
            call()
        return (time.perf_counter() - started) / num_calls
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    before.record()
    for _ in range(num_calls):
        call()
    after.record()
    after.synchronize()
    return before.elapsed_time(after) / 1e3 / num_calls


def free() -> None:
    """Gives back what nobody holds any more."""
    import gc

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
