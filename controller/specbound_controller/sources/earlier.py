"""What followed the newest tokens in earlier texts of this process: learned while it serves, forgotten with it.

Every sequence reads and feeds one memory. A replay does not know it, so it is never part of an evaluation.
"""

import threading
from collections.abc import Sequence
from itertools import islice

from specbound_controller.sources.context import ContextSource
from specbound_controller.sources.source import Candidate

MOST_CONTEXTS = 2_000_000
"""Contexts that are kept, about 300 MB at most; beyond it the oldest quarter is forgotten."""


class EarlierText:
    """The memory that sources of one decoder share."""

    def __init__(self, most_contexts: int = MOST_CONTEXTS) -> None:
        self.most_contexts = most_contexts
        self.followers: dict[tuple[int, ...], dict[int, int]] = {}
        self.lock = threading.Lock()

    def forget_oldest(self) -> None:
        """Makes room where there is too much; the lock is held."""
        followers = self.followers
        if len(followers) > self.most_contexts:
            for key in list(islice(followers, len(followers) // 4)):
                del followers[key]


class EarlierSource(ContextSource):
    """Continuations as of the context, but of all texts that the memory holds."""

    name = "earlier"

    def __init__(self, text: EarlierText) -> None:
        self.text = text
        super().__init__()

    def reset(self) -> None:
        """Begins a sequence; the memory stays."""
        self._tail = ()
        self._followers = self.text.followers

    def extend(self, tokens: Sequence[int]) -> None:
        """Feeds the memory."""
        with self.text.lock:
            super().extend(tokens)
            self.text.forget_oldest()

    def propose(self, tail: tuple[int, ...]) -> list[Candidate]:
        """As of the context; other threads may feed the memory meanwhile."""
        with self.text.lock:
            return super().propose(tail)
