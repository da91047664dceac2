"""What a generation returns, in transformers' own shape."""

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.generation.utils import GenerateDecoderOnlyOutput

from specbound.decoding.model.cache import DecodeCache
from specbound.decoding.request import Batch
from specbound.decoding.sequence import Sequence
from specbound.decoding.stats import DecodeStats

# R rows (sequences), V vocabulary


@dataclass
class GenerateOutput(GenerateDecoderOnlyOutput):
    """transformers' output with step statistics.

    `sequences` (R, prompt + output) int64: a row that ends before the longest is filled with the padding token.
    `scores`, `logits`: where asked for, one (R, V) float32 for each new token; -inf for a row that has ended.
    `past_key_values`: the cache of one sequence, to continue from; None for a batch, or with use_cache=False.
    """

    # transformers' ModelOutput wants None as every default; `assemble` always sets both
    stats: DecodeStats = None  # type: ignore[assignment]
    """Step records, counts and metrics of all rows together; seconds from call to return."""
    row_stats: tuple[DecodeStats, ...] = None  # type: ignore[assignment]
    """The same for each row; seconds from call to the end of the row."""


def assemble(
    batch: Batch, sequences: SequenceOf[Sequence], cache: DecodeCache | None, row_stats: SequenceOf[DecodeStats]
) -> GenerateOutput:
    """The output of finished sequences. A caller's own cache is filled and returned, as transformers does."""
    past = cache
    if batch.cache is not None and not isinstance(batch.cache, DecodeCache):
        assert cache is not None  # such a cache belongs to one sequence
        past = batch.cache
        cache.append_to(past, past.get_seq_length())
    most = max(sequence.num_new_tokens for sequence in sequences)
    rows = [s.tokens[len(s.request.prompt) :] + [batch.padding_token] * (most - s.num_new_tokens) for s in sequences]
    new_tokens = torch.tensor(rows, device=batch.input_ids.device)
    stats = row_stats[0]
    if len(row_stats) > 1:
        stats = sum(row_stats[1:], row_stats[0])
        stats.seconds = max(each.seconds for each in row_stats)
    return GenerateOutput(
        sequences=torch.cat([batch.input_ids, new_tokens], dim=1),
        scores=_by_token([s.scores for s in sequences]) if batch.requests[0].output_scores else None,
        logits=_by_token([s.logits for s in sequences]) if batch.requests[0].output_logits else None,
        past_key_values=past if batch.returns_cache else None,
        stats=stats,
        row_stats=tuple(row_stats),
    )


def _by_token(rows: SequenceOf[SequenceOf[Tensor]]) -> tuple[Tensor, ...]:
    """Per row a list of (1, V) -> per new token (R, V)."""
    nothing = torch.full_like(rows[0][0], -torch.inf)
    most = max(len(row) for row in rows)
    return tuple(torch.cat([row[i] if i < len(row) else nothing for row in rows]) for i in range(most))
