"""Which tokens a draft vocabulary holds: those that stand most often in the prompts, and in what the model writes.

Prompts alone miss what the model is fond of: a few thousand tokens of its own say more than ten times as many of the
prompts. Knows no log.
"""

# V vocabulary

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.greedy_twin import greedy_twin
from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.model.draft_head import require_plain
from specbound.decoding.model.families import name_of
from specbound_controller.draft_vocabulary import DraftVocabulary, most_frequent

MOST_CONTINUED, ONE_IN = 48, 4
"""Prompts that the model continues, evenly spread: at most so many, and at most one in four, so that the log shows
what such a vocabulary misses of other texts."""
MOST_NEW_TOKENS = 64
"""Most tokens of each."""


def frequent_tokens(
    adapter: ModelAdapter,
    prompt_ids: Sequence[Tensor],
    size: int,
    max_new_tokens: int,
    sampling: Mapping[str, Any],
) -> DraftVocabulary:
    """The most frequent tokens; prompts and continuations count the same in all, of equals the lowest ids come first.

    Args:
        adapter: the model, which decodes plainly.
        prompt_ids: (1, T) each.
        size: how many; the model's end tokens are always among them.
        max_new_tokens: most tokens of a continuation, if fewer than `MOST_NEW_TOKENS`.
        sampling: arguments of the decoder that choose the tokens, as of a recording.

    Raises:
        InputError: the size is out of range, or rows of the model's head cannot be copied.
    """
    require_plain(adapter.head, name_of(adapter.model))
    most_frequent(np.zeros(adapter.vocab_size), size, adapter.eos_token_ids)  # refuses a size before the work
    return most_frequent(token_shares(adapter, prompt_ids, max_new_tokens, sampling), size, adapter.eos_token_ids)


def token_shares(
    adapter: ModelAdapter, prompt_ids: Sequence[Tensor], max_new_tokens: int, sampling: Mapping[str, Any]
) -> np.ndarray:
    """How frequent every token is in the prompts and in the model's continuations, the two added up. (V,) float64"""
    decoder = SpecBoundDecoder(greedy_twin(adapter.model), record_steps=False)
    new_tokens = []
    for index in range(0, len(prompt_ids), max(ONE_IN, -(-len(prompt_ids) // MOST_CONTINUED))):
        own = {**sampling, "seed": sampling["seed"] + index} if "seed" in sampling else sampling
        ids = prompt_ids[index]
        output = decoder.decode([ids], max_new_tokens=min(MOST_NEW_TOKENS, max_new_tokens), **own)
        new_tokens.append(output.sequences[:, ids.shape[1] :].cpu())
    counts = [token_counts(texts, adapter.vocab_size) for texts in (prompt_ids, new_tokens)]
    shares: np.ndarray = counts[0] / counts[0].sum() + counts[1] / counts[1].sum()
    return shares


def token_counts(token_ids: Sequence[Tensor], vocab_size: int) -> np.ndarray:
    """How often every token stands in some texts. (1, T) each -> (V,) int64"""
    counts = np.zeros(vocab_size, dtype=np.int64)
    for ids in token_ids:
        counts += np.bincount(ids.flatten().numpy(), minlength=vocab_size)
    return counts
