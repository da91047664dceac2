"""Which answers fit into memory side by side: a bound for keys and values, and what a row of a batch takes of it.

Knows no queue. Rows are counted at their longest from the start, so that a batch which was let in can always go on.
"""

from collections.abc import Sequence

from specbound.decoding.running import ROOM_FOR_DRAFTS, RunningBatch
from specbound_controller.errors import InputError

MIB = 2**20


class Room:
    """Memory for keys and values of everything that is served."""

    def __init__(self, batch: RunningBatch, max_bytes: int) -> None:
        """batch: of the model. Raises InputError where not even a prompt of one token fits."""
        self.max_bytes = max_bytes
        self._bytes_per_token = batch.bytes_per_token()
        if self.most_tokens < 2:
            least = self.needed([2]) / MIB
            raise InputError(f"cache_mib must be at least {least:.1f} for this model, got {max_bytes / MIB:.1f}")

    @property
    def most_tokens(self) -> int:
        """Of prompt and answer together, of an answer alone."""
        return self.max_bytes // self._bytes_per_token - ROOM_FOR_DRAFTS

    def needed(self, most_tokens: Sequence[int]) -> int:
        """Bytes of a batch of answers with at most so many tokens each, prompts included.

        Rows share buffers, so that each takes what the longest does.
        """
        longest = max(most_tokens, default=0)
        return len(most_tokens) * (longest + ROOM_FOR_DRAFTS) * self._bytes_per_token

    def left(self, most_tokens: Sequence[int]) -> int:
        """Bytes beside such a batch; below zero where it does not fit."""
        return self.max_bytes - self.needed(most_tokens)
