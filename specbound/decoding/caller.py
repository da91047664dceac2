"""What a call shares with its caller and with other calls: transformers' streamer, and the decoder's policy."""

import copy
import inspect
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from transformers import GenerationMixin
from transformers.generation.streamers import BaseStreamer

from specbound_controller.policy import Policy

GENERATE = inspect.unwrap(GenerationMixin.generate).__code__
MOST_TRIES = 100
"""Of copying a policy that another thread is writing to at that moment."""


def streamer_of_caller() -> BaseStreamer | None:
    """The streamer of the `model.generate` that is calling.

    transformers shows it the prompt, but hands it to no decoding function; whoever reads it would wait for ever.
    """
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not GENERATE:
        frame = frame.f_back
    return frame.f_locals.get("streamer") if frame is not None else None


@contextmanager
def lent(policy: Policy, lock: threading.Lock) -> Iterator[Policy]:
    """A decoder's policy for one call: itself, or a copy while another call of the decoder has it."""
    if not lock.acquire(blocking=False):
        yield _copied(policy)
        return
    try:
        yield policy
    finally:
        lock.release()


def _copied(policy: Policy) -> Policy:
    """A copy; every prompt begins with a reset, so that it does not matter at which moment it is taken."""
    for _ in range(MOST_TRIES - 1):
        try:
            return copy.deepcopy(policy)
        except RuntimeError:  # a container has changed its size on the way
            continue
    return copy.deepcopy(policy)
