"""A reduced draft vocabulary: the tokens whose rows of the head the exits read. Drafts only; verification reads all.

Confidence, entropy and margin of an exit are then those among these tokens, so scores and thresholds hold for the
vocabulary that they were fitted on, and a decision says which that is. Knows no model.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from specbound_controller.errors import InputError
from specbound_controller.ratio import ratio

# V vocabulary, N tokens of the draft vocabulary

MIN_TOKENS = 2
"""Fewest tokens: a margin needs a second one."""


@dataclass(frozen=True, slots=True, eq=False)
class DraftVocabulary:
    """Some tokens of a model's vocabulary; two with the same tokens, read by the same exits, are equal."""

    ids: np.ndarray
    """Token ids, ascending, at least two. (N,) int64"""
    exits: str = ""
    """Name of the trained exits that draft them; empty where an exit's own hidden state is read."""
    checksum: str = field(init=False)
    """Of the ids, and of the trained exits."""

    def __post_init__(self) -> None:
        ids = np.asarray(self.ids)
        if ids.ndim != 1 or len(ids) < MIN_TOKENS or ids.dtype != np.int64:
            raise ValueError(f"draft_vocabulary must be {MIN_TOKENS} or more int64 ids, got {ids.dtype} {ids.shape}")
        if ids[0] < 0 or (ids[1:] <= ids[:-1]).any():
            raise ValueError("draft_vocabulary must hold ascending token ids, none of them twice and none below 0")
        ids = ids.copy()
        ids.flags.writeable = False
        object.__setattr__(self, "ids", ids)
        content = ids.astype("<i8").tobytes() + self.exits.encode()
        object.__setattr__(self, "checksum", hashlib.sha256(content).hexdigest())

    def __len__(self) -> int:
        return len(self.ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DraftVocabulary) and self.checksum == other.checksum

    def __hash__(self) -> int:
        return hash(self.checksum)

    def __str__(self) -> str:
        exits = f" of the trained exits {self.exits}" if self.exits else ""
        return f"{len(self)} tokens ({self.checksum[:8]}){exits}"

    def share(self, counts: np.ndarray) -> float:
        """Share of counted tokens that lie within it; nan where nothing was counted. counts: (V,)"""
        return ratio(counts[self.ids].sum(), counts.sum())


def most_frequent(counts: np.ndarray, size: int, always: Iterable[int] = ()) -> DraftVocabulary:
    """The tokens that were counted most often, of equals those with the lowest ids.

    Args:
        counts: occurrences of every token. (V,)
        size: N; at least two tokens, at most V.
        always: tokens that belong to it however rare they are: end tokens, which end drafts.

    Raises:
        InputError: the size is out of range.
    """
    kept = sorted({int(token) for token in always})
    if not max(MIN_TOKENS, len(kept)) <= size <= len(counts):
        raise InputError(
            f"draft_vocabulary must be in [{max(MIN_TOKENS, len(kept))}, {len(counts)}] for a vocabulary of "
            f"{len(counts)} tokens, {len(kept)} of them end tokens, got {size}"
        )
    weight = counts.astype(np.float64)
    weight[kept] = np.inf
    return DraftVocabulary(np.sort(np.argsort(-weight, kind="stable")[:size]).astype(np.int64))


def describe(vocabulary: DraftVocabulary | None) -> str:
    """In words, for a message."""
    return "all tokens" if vocabulary is None else str(vocabulary)
