"""A batch from the arguments of a call, those of transformers' generate: every row is read as a call of its own.

transformers' own `generate` reads them: it is called with a function in place of its decoding loop, so that every
setting means here what it means there.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
    StopStringCriteria,
)

from specbound.decoding.greedy_twin import with_generation_config
from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.prepared import batch_from_transformers, copied, seeded
from specbound.decoding.refusals import REFUSED_ARGUMENTS, shown
from specbound.decoding.request import Batch, Request
from specbound_controller.errors import InputError

# R rows (sequences), T tokens of the longest prompt


def batch_from_arguments(
    model: PreTrainedModel,
    adapter: ModelAdapter,
    inputs: Tensor | Sequence[Tensor | Sequence[int]],
    generation_config: GenerationConfig | None,
    tokenizer: PreTrainedTokenizerBase | None,
    seed: int | Sequence[int] | None,
    others: Mapping[str, Any],
) -> Batch:
    """The batch of `SpecBoundDecoder.generate`: every row is prepared as a call of its own, without padding.

    Raises:
        InputError: an argument that cannot be honoured, by name.
        ValueError: what transformers' generate refuses.
    """
    arguments = {name: value for name, value in others.items() if value is not None}
    for name in REFUSED_ARGUMENTS:
        if name in arguments:
            raise InputError(f"{name} is not supported by SpecBoundDecoder.generate, got {shown(arguments[name])}")
    model, generation_config, arguments = _with_stop_strings(model, generation_config, tokenizer, arguments)
    mask = arguments.pop("attention_mask", None)

    def prepared(ids: Tensor, mask: Tensor | None, **own: Any) -> Batch:
        prepare = _Preparation(adapter)
        model.generate(ids.to(adapter.device), generation_config, attention_mask=mask, custom_generate=prepare, **own)
        assert prepare.batch is not None  # generate calls it or raises
        return prepare.batch

    if isinstance(inputs, Tensor):
        whole = prepared(inputs, mask, **arguments)
        rows = [list(request.prompt) for request in whole.requests[:: len(whole.requests) // inputs.shape[0]]]
    else:
        rows = _rows(inputs, mask)
    if len(rows) == 1:
        if not isinstance(inputs, Tensor):
            whole = prepared(torch.tensor(rows), torch.ones(1, len(rows[0]), dtype=torch.int64), **arguments)
        return replace(whole, requests=seeded(whole.requests, seed))
    if "past_key_values" in arguments:
        raise InputError(f"past_key_values must belong to one sequence, got a batch of {len(rows)}")
    batches = []
    for index, row in enumerate(rows):
        ids = torch.tensor([row])
        batches.append(prepared(ids, torch.ones_like(ids), **_own_arguments(arguments, index)))
    requests = [request for batch in batches for request in batch.requests]
    most = min(request.max_new_tokens for request in requests)  # max_length counts from the longest prompt
    requests = [replace(request, max_new_tokens=most) for request in requests]
    input_ids = whole.input_ids if isinstance(inputs, Tensor) else _padded(requests, batches[0].padding_token, adapter)
    return replace(batches[0], requests=seeded(requests, seed), input_ids=input_ids)


class _Preparation:
    """Stands in for transformers' decoding loop and keeps what it would have been given."""

    def __init__(self, adapter: ModelAdapter) -> None:
        self.adapter = adapter
        self.batch: Batch | None = None

    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        **model_kwargs: object,
    ) -> Tensor:
        self.batch = batch_from_transformers(
            self.adapter, input_ids, logits_processor, stopping_criteria, generation_config, 0, model_kwargs
        )
        return input_ids


def _rows(inputs: Sequence[Tensor | Sequence[int]], mask: Tensor | None) -> list[list[int]]:
    """The prompts of a list."""
    if mask is not None:
        raise InputError("attention_mask must be left out where input_ids is a list of prompts")
    rows = [row.flatten().tolist() if isinstance(row, Tensor) else list(row) for row in inputs]
    if not rows or not all(rows):
        raise InputError("input_ids must hold at least one token per row, got an empty prompt")
    return rows


def _padded(requests: Sequence[Request], padding_token: int, adapter: ModelAdapter) -> Tensor:
    """The prompts of a list as one left-padded tensor. (R, T)"""
    longest = max(len(request.prompt) for request in requests)
    rows = [[padding_token] * (longest - len(request.prompt)) + list(request.prompt) for request in requests]
    return torch.tensor(rows, device=adapter.device)


def _own_arguments(arguments: Mapping[str, Any], row: int) -> dict[str, Any]:
    """The arguments of one row of a batch, as a call of its own."""
    own = dict(arguments)
    if row > 0:  # the first row keeps the caller's objects; a processor may keep state
        for name in ("logits_processor", "stopping_criteria"):
            if name in own:
                own[name] = copied(own[name], name)
    allowed = own.get("prefix_allowed_tokens_fn")
    if allowed is not None:
        own["prefix_allowed_tokens_fn"] = lambda _, ids: allowed(row, ids)
    return own


def _with_stop_strings(
    model: PreTrainedModel,
    config: GenerationConfig | None,
    tokenizer: PreTrainedTokenizerBase | None,
    arguments: dict[str, Any],
) -> tuple[PreTrainedModel, GenerationConfig | None, dict[str, Any]]:
    """Turns stop strings into a criterion: transformers does not hand a tokenizer to a decoding function."""
    strings = arguments.pop("stop_strings", None)
    for source in (config, model.generation_config):
        strings = strings if strings is not None or source is None else getattr(source, "stop_strings", None)
    if strings is None:
        return model, config, arguments
    if tokenizer is None:
        raise InputError("tokenizer must be given where stop_strings are set")
    criteria = StoppingCriteriaList([StopStringCriteria(tokenizer=tokenizer, stop_strings=strings)])
    criteria.extend(arguments.get("stopping_criteria", ()))
    configs = [copy.deepcopy(source) for source in (config, model.generation_config)]
    for each in configs:
        if each is not None:
            each.stop_strings = None
    assert configs[1] is not None
    return with_generation_config(model, configs[1]), configs[0], {**arguments, "stopping_criteria": criteria}
