"""A batch from what transformers' generate has prepared for a decoding loop: ids, processors, criteria, a cache.

What cannot be honoured is refused by name. Knows nothing of how tokens are computed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    StoppingCriteriaList,
)
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria

from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.refusals import check_length, check_positions, checked_cache, refuse_settings
from specbound.decoding.request import Batch, Request
from specbound.decoding.row_processors import are_separable, of_row
from specbound_controller.errors import InputError

# R rows (sequences)

PADDING_TOKEN = 0
"""Fills the rows of a batch that end early where the model names neither a padding nor an end token."""


def batch_from_transformers(
    adapter: ModelAdapter,
    input_ids: Tensor,
    logits_processor: Iterable[Any],
    stopping_criteria: Iterable[Any],
    config: GenerationConfig,
    seed: int | Sequence[int] | None,
    model_kwargs: Mapping[str, Any],
) -> Batch:
    """The batch that transformers' decoding loop would be given: padding stays visible to processors and criteria."""
    refuse_settings(config, model_kwargs, adapter)
    if input_ids.ndim != 2 or input_ids.shape[1] == 0:
        raise InputError(f"input_ids must be (rows, tokens) with at least one token, got {tuple(input_ids.shape)}")
    num_rows, length = input_ids.shape
    paddings = _paddings(input_ids, model_kwargs.get("attention_mask"))
    check_positions(model_kwargs.get("position_ids"), paddings, length)
    limits = [c.max_length for c in stopping_criteria if type(c) is MaxLengthCriteria]
    max_new_tokens = min(limits, default=config.max_length) - length
    for padding in paddings:
        check_length(adapter, length - padding, max_new_tokens)
    cache = checked_cache(adapter, model_kwargs.get("past_key_values"), paddings, length + max_new_tokens)
    ends = [token for c in stopping_criteria if type(c) is EosTokenCriteria for token in c.eos_token_id.tolist()]
    criteria = StoppingCriteriaList(
        c for c in stopping_criteria if type(c) not in (MaxLengthCriteria, EosTokenCriteria)
    )
    processors = LogitsProcessorList(logits_processor)
    is_apart = num_rows == 1 or are_separable(processors)
    requests = [
        Request(
            prompt=tuple(tokens[padding:]),
            max_new_tokens=max_new_tokens,
            eos_token_ids=frozenset(ends),
            padding=tuple(tokens[:padding]),
            processors=_processors_of(processors, row, num_rows, is_apart),
            criteria=criteria if num_rows == 1 else StoppingCriteriaList(),
            do_sample=bool(config.do_sample),
            output_scores=bool(config.return_dict_in_generate and config.output_scores),
            output_logits=bool(config.return_dict_in_generate and config.output_logits),
        )
        for row, (tokens, padding) in enumerate(zip(input_ids.tolist(), paddings, strict=True))
    ]
    return Batch(
        requests=seeded(requests, seed),
        input_ids=input_ids.to(adapter.device),
        cache=cache,
        padding_token=_padding_token(config, ends),
        return_dict=bool(config.return_dict_in_generate),
        returns_cache=config.use_cache is not False,
        processors=LogitsProcessorList() if is_apart else processors,
        criteria=criteria if num_rows > 1 else StoppingCriteriaList(),
        has_end_token=any(hasattr(c, "eos_token_id") for c in stopping_criteria),
    )


def _processors_of(processors: LogitsProcessorList, row: int, num_rows: int, is_apart: bool) -> LogitsProcessorList:
    """What one row has for itself: nothing where the whole batch has it, the caller's own where the row is alone."""
    if not is_apart:
        return LogitsProcessorList()
    return processors if num_rows == 1 else of_row(processors, row, num_rows)


def _padding_token(config: GenerationConfig, ends: Sequence[int]) -> int:
    """What fills rows that have ended: as transformers, the first end token where no padding token is named."""
    if config.pad_token_id is not None:
        return int(config.pad_token_id)
    return ends[0] if ends else PADDING_TOKEN


def _paddings(input_ids: Tensor, mask: Tensor | None) -> list[int]:
    """Tokens of padding before each row's prompt. (R,)"""
    if mask is None:
        return [0] * input_ids.shape[0]
    if mask.shape != input_ids.shape:
        raise InputError(f"attention_mask must have the shape {tuple(input_ids.shape)}, got {tuple(mask.shape)}")
    lengths = [int(length) for length in (mask != 0).sum(-1)]
    paddings = [input_ids.shape[1] - length for length in lengths]
    for row, padding in enumerate(paddings):
        if lengths[row] == 0 or not bool((mask[row, padding:] != 0).all()):
            raise InputError(
                f"attention_mask must be zeros, then ones (left padding), got other zeros in row {row}: set "
                "tokenizer.padding_side = 'left'; without a mask, "
                "transformers masks every padding token"
            )
    return paddings


def seeded(requests: Sequence[Request], seed: int | Sequence[int] | None) -> tuple[Request, ...]:
    """Row r samples with seed + r, or with the r-th seed of a list; without one, torch's generator gives it."""
    if not any(request.do_sample for request in requests):
        return tuple(requests)
    if seed is None:
        seed = int(torch.randint(1 << 62, (1,)))
    seeds = [seed + row for row in range(len(requests))] if isinstance(seed, int) else list(seed)
    if len(seeds) != len(requests):
        raise InputError(f"seed must be one number or {len(requests)} of them, one for each row, got {len(seeds)}")
    return tuple(replace(request, seed=own) for request, own in zip(requests, seeds, strict=True))
