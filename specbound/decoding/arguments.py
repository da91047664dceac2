"""A batch from the arguments of a call, those of transformers' generate, with lists of prompts and stop strings.

transformers' own `generate` reads them: it is called with a function in place of its decoding loop, so that every
setting means here what it means there, and None switches a setting off.
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
from specbound.decoding.prepared import PADDING_TOKEN, batch_from_transformers, seeded
from specbound.decoding.refusals import REFUSED_ARGUMENTS, refuse_healing, refuse_no_cache, shown
from specbound.decoding.request import Batch
from specbound_controller.errors import InputError

# R rows (sequences), T tokens of the longest prompt


def batch_from_arguments(
    model: PreTrainedModel,
    adapter: ModelAdapter,
    inputs: Tensor | Sequence[Tensor | Sequence[int]] | None,
    generation_config: GenerationConfig | None,
    tokenizer: PreTrainedTokenizerBase | None,
    seed: int | Sequence[int] | None,
    others: Mapping[str, Any],
) -> Batch:
    """The batch of `SpecBoundDecoder.generate`. inputs: None begins with the model's first token, as transformers does.

    Raises:
        InputError: an argument that cannot be honoured, by name.
        ValueError: what transformers' generate refuses.
    """
    arguments = dict(others)
    for name in REFUSED_ARGUMENTS:
        if arguments.get(name) is not None and arguments[name] is not False:
            raise InputError(f"{name} is not supported by SpecBoundDecoder.generate, got {shown(arguments[name])}")
    refuse_no_cache(arguments.get("past_key_values"))
    for source in (arguments, vars(generation_config or object), vars(model.generation_config)):
        refuse_healing(source.get("token_healing"))
    if inputs is not None and not isinstance(inputs, Tensor):
        inputs, arguments["attention_mask"] = _padded(inputs, model, generation_config, arguments)
    model, generation_config, arguments = _with_stop_strings(model, generation_config, tokenizer, arguments)
    prepare = _Preparation(adapter)
    ids = inputs.to(adapter.device) if inputs is not None else None
    model.generate(ids, generation_config, custom_generate=prepare, **arguments)
    assert prepare.batch is not None  # generate calls it or raises
    return replace(prepare.batch, requests=seeded(prepare.batch.requests, seed))


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


def _padded(
    inputs: Sequence[Tensor | Sequence[int]],
    model: PreTrainedModel,
    config: GenerationConfig | None,
    arguments: Mapping[str, Any],
) -> tuple[Tensor, Tensor]:
    """The prompts of a list as one left-padded tensor, and its mask. (R, T) each"""
    if arguments.get("attention_mask") is not None:
        raise InputError("attention_mask must be left out where input_ids is a list of prompts")
    rows = [row.flatten().tolist() if isinstance(row, Tensor) else list(row) for row in inputs]
    if not rows or not all(rows):
        raise InputError("input_ids must hold at least one token per row, got an empty prompt")
    padding_token = _padding_token(model, config, arguments)
    missing = [max(map(len, rows)) - len(row) for row in rows]
    ids = [[padding_token] * count + row for row, count in zip(rows, missing, strict=True)]
    mask = [[0] * count + [1] * len(row) for row, count in zip(rows, missing, strict=True)]
    return torch.tensor(ids), torch.tensor(mask)


def _padding_token(model: PreTrainedModel, config: GenerationConfig | None, arguments: Mapping[str, Any]) -> int:
    """What a list is padded with: the padding token of the call or of the model, else the first end token."""
    for name in ("pad_token_id", "eos_token_id"):
        for source in (arguments, vars(config or object), vars(model.generation_config)):
            token = source.get(name)
            if token is not None:
                return int(torch.as_tensor(token).flatten()[0])
    return PADDING_TOKEN


def _with_stop_strings(
    model: PreTrainedModel,
    config: GenerationConfig | None,
    tokenizer: PreTrainedTokenizerBase | None,
    arguments: dict[str, Any],
) -> tuple[PreTrainedModel, GenerationConfig | None, dict[str, Any]]:
    """Turns stop strings into a criterion: transformers does not hand a tokenizer to a decoding function."""
    strings = next(
        (s.stop_strings for s in (config, model.generation_config) if s is not None and s.stop_strings is not None),
        None,
    )
    strings = arguments.pop("stop_strings", strings)  # None as an argument switches them off
    if strings is None and not any(s is not None and s.stop_strings for s in (config, model.generation_config)):
        return model, config, arguments
    if strings is not None and tokenizer is None:
        raise InputError("tokenizer must be given where stop_strings are set")
    criteria = StoppingCriteriaList(arguments.get("stopping_criteria") or ())
    if strings is not None:
        criteria.insert(0, StopStringCriteria(tokenizer=tokenizer, stop_strings=strings))
    configs = [copy.deepcopy(source) for source in (config, model.generation_config)]
    for each in configs:
        if each is not None:
            each.stop_strings = None
    assert configs[1] is not None
    return with_generation_config(model, configs[1]), configs[0], {**arguments, "stopping_criteria": criteria}
