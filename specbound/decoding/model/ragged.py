"""Which rows of a cache a layer call runs on, where each row stands, and what its new tokens may see.

Knows positions and lengths; knows nothing of models and drafts.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

# B rows of the call, n most new tokens of a row, H key-value heads, C capacity in tokens, D width, K visible keys


def sent(values: object, device: torch.device | str) -> Tensor:
    """Numbers of the host as a tensor on a device, which the host does not wait for: by way of pinned memory."""
    tensor = torch.as_tensor(values)
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class RaggedCall:
    """Rows of a cache that run together, each from its own position on and with its own number of new tokens.

    Calls are padded on the right, to the n of the row with the most new tokens. Padding stands at the position of its
    row's last new token, sees what that one sees, and is not written to the cache.
    """

    def __init__(
        self, slots: Sequence[int], starts: Sequence[int], counts: Sequence[int], device: torch.device | str = "cpu"
    ) -> None:
        """(B,) each. slots: rows of the cache. starts: how many tokens each holds. counts: its new tokens, >= 1."""
        self.slots, self.starts, self.counts = list(slots), list(starts), list(counts)
        self.num_new = max(counts)
        self.end = max(start + count for start, count in zip(starts, counts, strict=True))
        """Tokens of the longest row after the call."""
        columns = range(self.num_new)
        self.places = sent(
            [[start + min(i, count - 1) for i in columns] for start, count in zip(starts, counts, strict=True)], device
        )
        """Where each token of the call stands in its row of the cache. (B, n)"""
        self.positions = self.places
        """Position of each token of the call. (B, n)"""
        self._slots = sent(self.slots, device).unsqueeze(1)
        self._new: Sequence[Tensor] = ()
        if min(counts) < self.num_new:  # found on the host: on a GPU a mask as index would wait for the device
            new = [(row, i, slots[row], starts[row] + i) for row, count in enumerate(counts) for i in range(count)]
            self._new = sent(new, device).unbind(1)

    @property
    def packing(self) -> tuple[Tensor, Tensor] | None:
        """The place of each new token among the B n of the padded call, and of each place the token that stands there:
        (tokens,) and (B n,). None where nothing is padded."""
        if not self._new:
            return None
        firsts = [0, *itertools.accumulate(self.counts)]
        columns = range(self.num_new)
        held = [first + min(i, count - 1) for first, count in zip(firsts, self.counts, strict=False) for i in columns]
        rows, within = self._new[:2]
        return rows * self.num_new + within, sent(held, rows.device)

    @property
    def is_level(self) -> bool:
        """Whether all rows stand at one position and have as many new tokens."""
        return not self._new and len(set(self.starts)) == 1

    def padded(self, rows: Sequence[Tensor]) -> Tensor:
        """Each row's new tokens, (1, count, D), as one (B, n, D). Padding repeats the last token."""
        if not self._new:
            return torch.cat(list(rows))
        missing = [self.num_new - count for count in self.counts]
        filled = [torch.cat([row, row[:, -1:].expand(-1, k, -1)], 1) for row, k in zip(rows, missing, strict=True)]
        return torch.cat(filled)

    def first_key(self, window: int | None) -> int:
        """The first position that a new token of any row may see."""
        return 0 if window is None else max(0, min(self.starts) - window + 1)

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """Additive mask (B, 1, n, K) for the keys from `first_key` to `end`; None where each query sees all of them."""
        if self.is_level and self.num_new == 1:
            return None
        keys = torch.arange(self.first_key(window), self.end, device=self.positions.device)
        queries = self.positions.unsqueeze(2)
        hidden = keys > queries
        if window is not None:
            hidden |= keys <= queries - window
        mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
        return mask.masked_fill_(hidden, torch.finfo(dtype).min).unsqueeze(1)

    def write(self, buffer: Tensor, states: Tensor) -> None:
        """Writes the new tokens' states (B, H, n, D) to their rows and positions of a buffer (all rows, H, C, D)."""
        if len(self.slots) == 1:
            start = self.starts[0]
            buffer[self.slots[0], :, start : start + self.num_new].copy_(states[0])
            return
        by_token = states.transpose(1, 2)
        if not self._new:
            buffer[self._slots, :, self.places] = by_token
        else:
            rows, columns, slots, positions = self._new
            buffer[slots, :, positions] = by_token[rows, columns]

    def read(self, buffer: Tensor, window: int | None) -> Tensor:
        """The states that the new tokens may see, (B, H, K, D): a view where the rows stand side by side."""
        visible = buffer[:, :, self.first_key(window) : self.end]
        first, num_rows = self.slots[0], len(self.slots)
        if self.slots == list(range(first, first + num_rows)):
            return visible[first : first + num_rows]
        return visible.index_select(0, self._slots[:, 0])
