"""A batch from what transformers' generate has prepared for a decoding loop: ids, processors, criteria, a cache.

What cannot be honoured is refused by name. Knows nothing of how tokens are computed.
"""

import copy
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
from transformers.generation.logits_process import PrefixConstrainedLogitsProcessor
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria

from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.refusals import check_length, check_positions, checked_cache, refuse_settings
from specbound.decoding.request import Batch, Request
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
    """The batch behind `model.generate(..., custom_generate=decoder)`: a row's padding stays visible to processors."""
    refuse_settings(config, model_kwargs, adapter)
    if input_ids.ndim != 2 or input_ids.shape[1] == 0:
        raise InputError(f"input_ids must be (rows, tokens) with at least one token, got {tuple(input_ids.shape)}")
    num_rows, length = input_ids.shape
    paddings = _paddings(input_ids, model_kwargs.get("attention_mask"))
    check_positions(model_kwargs.get("position_ids"), paddings, length)
    limits = [c.max_length for c in stopping_criteria if type(c) is MaxLengthCriteria]
    max_new_tokens = min(limits, default=config.max_length) - length
    eos = frozenset(int(t) for c in stopping_criteria if type(c) is EosTokenCriteria for t in c.eos_token_id)
    criteria = [c for c in stopping_criteria if type(c) not in (MaxLengthCriteria, EosTokenCriteria)]
    processors = list(logits_processor)
    if num_rows > 1 and any(isinstance(p, PrefixConstrainedLogitsProcessor) for p in processors):
        raise InputError("prefix_allowed_tokens_fn of a batch is supported by SpecBoundDecoder.generate only")
    requests = []
    for row, padding in enumerate(paddings):
        tokens = input_ids[row].tolist()
        check_length(adapter, length - padding, max_new_tokens)
        requests.append(
            Request(
                prompt=tuple(tokens[padding:]),
                max_new_tokens=max_new_tokens,
                eos_token_ids=eos,
                padding=tuple(tokens[:padding]),
                # a copy for every row but the first, because a processor may keep state
                processors=LogitsProcessorList(processors if row == 0 else copied(processors, "logits_processor")),
                criteria=StoppingCriteriaList(criteria if row == 0 else copied(criteria, "stopping_criteria")),
                do_sample=bool(config.do_sample),
                output_scores=bool(config.return_dict_in_generate and config.output_scores),
                output_logits=bool(config.return_dict_in_generate and config.output_logits),
            )
        )
    cache = checked_cache(model_kwargs.get("past_key_values"), num_rows)
    end = min(eos, default=PADDING_TOKEN)
    padding_token = end if config.pad_token_id is None else int(config.pad_token_id)
    ids = input_ids.to(adapter.device)
    return Batch(seeded(requests, seed), ids, cache, padding_token, bool(config.return_dict_in_generate))


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
                f"attention_mask must be zeros, then ones (left padding), got other zeros in row {row}; without one, "
                "transformers masks every padding token"
            )
    return paddings


def copied(objects: Iterable[Any], name: str) -> list[Any]:
    """Objects of a caller for another row of a batch."""
    try:
        return copy.deepcopy(list(objects))
    except Exception as error:
        raise InputError(f"{name} of a batch must be such that it can be copied for every row: {error}") from error


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
