"""What a caller asked for: prompts, limits, processors, criteria, seed. What cannot be honoured is refused by name.

transformers' own `generate` reads the arguments: it is called with a function in place of its decoding loop, so that
every setting means here what it means there. Knows nothing of how tokens are computed.
"""

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from transformers.cache_utils import DynamicCache
from transformers.generation.logits_process import PrefixConstrainedLogitsProcessor, TemperatureLogitsWarper
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria

from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.model.cache import DecodeCache
from specbound.decoding.refusals import (
    REFUSED_ARGUMENTS,
    check_length,
    check_positions,
    checked_cache,
    refuse_settings,
    shown,
)
from specbound_controller.errors import InputError

# R rows (sequences), T tokens of the longest prompt

PADDING_TOKEN = 0
"""Fills the rows of a batch that end early where the model names neither a padding nor an end token."""


@dataclass(frozen=True, slots=True)
class Request:
    """One sequence to generate."""

    prompt: tuple[int, ...]
    """Token ids without padding, at least one."""
    max_new_tokens: int
    """Most tokens to generate, >= 1."""
    eos_token_ids: frozenset[int] = frozenset()
    """Tokens that end the output."""
    padding: tuple[int, ...] = ()
    """Padding before the prompt that processors and criteria see, as in a padded batch of transformers."""
    processors: LogitsProcessorList = field(default_factory=LogitsProcessorList)
    """Called once for every new token, as plain decoding calls them."""
    criteria: StoppingCriteriaList = field(default_factory=StoppingCriteriaList)
    """Stopping criteria besides length and end tokens, called after every new token."""
    do_sample: bool = False
    seed: int = 0
    """Seed of the sampling noise."""
    output_scores: bool = False
    output_logits: bool = False

    @property
    def sampling_temperature(self) -> float:
        """What divides the logits before sampling; 0 under greedy decoding."""
        if not self.do_sample:
            return 0.0
        return math.prod(p.temperature for p in self.processors if isinstance(p, TemperatureLogitsWarper))


@dataclass(frozen=True, slots=True)
class Batch:
    """The sequences of one call, and what to return."""

    requests: tuple[Request, ...]
    input_ids: Tensor
    """(R, T) int64: the prompts with their padding, as the output begins."""
    cache: DynamicCache | DecodeCache | None
    """A cache to continue from; None begins anew."""
    padding_token: int
    return_dict: bool


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
        return replace(whole, requests=_seeded(whole.requests, seed))
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
    return replace(batches[0], requests=_seeded(requests, seed), input_ids=input_ids)


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
                processors=LogitsProcessorList(processors if row == 0 else _copied(processors, "logits_processor")),
                criteria=StoppingCriteriaList(criteria if row == 0 else _copied(criteria, "stopping_criteria")),
                do_sample=bool(config.do_sample),
                output_scores=bool(config.return_dict_in_generate and config.output_scores),
                output_logits=bool(config.return_dict_in_generate and config.output_logits),
            )
        )
    cache = checked_cache(model_kwargs.get("past_key_values"), num_rows)
    end = min(eos, default=PADDING_TOKEN)
    padding_token = end if config.pad_token_id is None else int(config.pad_token_id)
    ids = input_ids.to(adapter.device)
    return Batch(_seeded(requests, seed), ids, cache, padding_token, bool(config.return_dict_in_generate))


def greedy_twin(model: PreTrainedModel, has_end: bool = True) -> PreTrainedModel:
    """The same model with its end and padding tokens, and nothing else, in its generation config.

    has_end: False leaves the end tokens out as well, so that the output is as long as its limit.

    transformers fills what a call's generation config leaves unset from the model's own, so settings that sample or
    penalise need a copy to be rid of them: a shallow one, which shares the weights and leaves the model as it is.
    """
    own = model.generation_config
    eos = own.eos_token_id
    pad = own.pad_token_id if own.pad_token_id is not None else eos[0] if isinstance(eos, list) else eos
    return _with_config(model, GenerationConfig(eos_token_id=eos if has_end else None, pad_token_id=pad))


def _with_config(model: PreTrainedModel, config: GenerationConfig) -> PreTrainedModel:
    twin = copy.copy(model)
    twin.generation_config = config
    return twin


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


def _own_arguments(arguments: Mapping[str, Any], row: int) -> dict[str, Any]:
    """The arguments of one row of a batch, as a call of its own."""
    own = dict(arguments)
    if row > 0:  # the first row keeps the caller's objects; a processor may keep state
        for name in ("logits_processor", "stopping_criteria"):
            if name in own:
                own[name] = _copied(own[name], name)
    allowed = own.get("prefix_allowed_tokens_fn")
    if allowed is not None:
        own["prefix_allowed_tokens_fn"] = lambda _, ids: allowed(row, ids)
    return own


def _copied(objects: Iterable[Any], name: str) -> list[Any]:
    """Objects of a caller for another row of a batch."""
    try:
        return copy.deepcopy(list(objects))
    except Exception as error:
        raise InputError(f"{name} of a batch must be such that it can be copied for every row: {error}") from error


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
    return _with_config(model, configs[1]), configs[0], {**arguments, "stopping_criteria": criteria}


def _seeded(requests: Sequence[Request], seed: int | Sequence[int] | None) -> tuple[Request, ...]:
    """Row r samples with seed + r, or with the r-th seed of a list; without one, torch's generator gives it."""
    if not any(request.do_sample for request in requests):
        return tuple(requests)
    if seed is None:
        seed = int(torch.randint(1 << 62, (1,)))
    seeds = [seed + row for row in range(len(requests))] if isinstance(seed, int) else list(seed)
    if len(seeds) != len(requests):
        raise InputError(f"seed must be one number or {len(requests)} of them, one for each row, got {len(seeds)}")
    return tuple(replace(request, seed=own) for request, own in zip(requests, seeds, strict=True))
