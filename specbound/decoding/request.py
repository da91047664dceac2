"""What a caller asked for, checked: prompt, limits, end tokens. What cannot be honoured is refused by name."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, PreTrainedModel
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria

from specbound.decoding.adapter import ModelAdapter, name_of
from specbound_controller.errors import InputError

DEFAULT_MAX_LENGTH = 20
"""transformers' own default for prompt and output together."""

HARMLESS_KEYWORDS = frozenset({"use_cache", "logits_to_keep", "position_ids", "pad_token_id", "bos_token_id"})
"""Arguments that transformers prepares for a forward pass and that greedy decoding does not depend on."""

NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "do_sample": (None, False),
    "num_beams": (None, 1),
    "num_return_sequences": (None, 1),
    "penalty_alpha": (None, 0, 0.0),
    "dola_layers": (None,),
    "prompt_lookup_num_tokens": (None,),
    "assistant_early_exit": (None,),
    "repetition_penalty": (None, 1, 1.0),
    "no_repeat_ngram_size": (None, 0),
    "bad_words_ids": (None, []),
    "min_new_tokens": (None, 0),
    "min_length": (None, 0),  # after min_new_tokens, from which transformers computes it
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "sequence_bias": (None, {}),
    "guidance_scale": (None, 1, 1.0),
    "max_time": (None,),
    "stop_strings": (None,),
    "output_scores": (None, False),
    "output_logits": (None, False),
    "output_attentions": (None, False),
    "output_hidden_states": (None, False),
    "return_dict_in_generate": (None, False),
    "cache_implementation": (None, "dynamic"),
}
"""Settings of a generation config that are refused, each with the values that ask for nothing."""


@dataclass(frozen=True, slots=True)
class Request:
    """One greedy generation."""

    input_ids: Tensor
    """(1, T) int64, T >= 1."""
    max_new_tokens: int
    """Most tokens to generate, >= 1."""
    eos_token_ids: frozenset[int]
    """Tokens that end the output."""


def request_from_arguments(
    adapter: ModelAdapter,
    config: GenerationConfig,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    max_new_tokens: int | None,
    max_length: int | None,
    eos_token_id: int | list[int] | None,
    others: Mapping[str, object],
) -> Request:
    """The request of `SpecBoundDecoder.generate`."""
    config = merged(config, adapter.model.generation_config)
    for name, value in others.items():
        if name in HARMLESS_KEYWORDS or value is None or value in NEUTRAL.get(name, ()):
            continue
        raise InputError(f"{name} is not supported by SpecBoundDecoder.generate, got {value!r}")
    _refuse_config(config, adapter, overridden=frozenset(k for k, value in others.items() if value is not None))
    if max_new_tokens is None and max_length is None:
        max_new_tokens, max_length = config.max_new_tokens, config.max_length
    if max_new_tokens is None:
        max_new_tokens = (DEFAULT_MAX_LENGTH if max_length is None else max_length) - input_ids.shape[-1]
    eos = _eos_ids(config.eos_token_id if eos_token_id is None else eos_token_id)
    return _checked(adapter, input_ids, attention_mask, max_new_tokens, eos)


def request_from_transformers(
    adapter: ModelAdapter,
    config: GenerationConfig,
    input_ids: Tensor,
    logits_processor: Iterable[object],
    stopping_criteria: Iterable[object],
    model_kwargs: Mapping[str, object],
) -> Request:
    """The request behind `model.generate(..., custom_generate=decoder)`."""
    _refuse_config(config, adapter)
    for processor in logits_processor:
        raise InputError(f"logits processor {type(processor).__name__} is not supported by the SpecBound decoder")
    for criterion in stopping_criteria:
        if not isinstance(criterion, MaxLengthCriteria | EosTokenCriteria):
            raise InputError(f"stopping criterion {type(criterion).__name__} is not supported by the SpecBound decoder")
    for name, value in model_kwargs.items():
        if name == "past_key_values":
            _refuse_cache(value)
        elif name not in HARMLESS_KEYWORDS | {"attention_mask"} and value is not None:
            raise InputError(f"{name} is not supported by the SpecBound decoder")
    mask = model_kwargs.get("attention_mask")
    assert mask is None or isinstance(mask, Tensor)
    max_length = DEFAULT_MAX_LENGTH if config.max_length is None else config.max_length
    return _checked(adapter, input_ids, mask, max_length - input_ids.shape[-1], _eos_ids(config.eos_token_id))


def merged(config: GenerationConfig, defaults: GenerationConfig) -> GenerationConfig:
    """A copy of a generation config whose unset fields are a model's own, as transformers' generate does it."""
    result = copy.deepcopy(config)
    for name, value in defaults.to_dict().items():
        if getattr(result, name, None) is None:
            setattr(result, name, value)
    return result


def greedy_twin(model: PreTrainedModel) -> PreTrainedModel:
    """The same model with its end and padding tokens, and nothing else, in its generation config.

    transformers fills what a call's generation config leaves unset from the model's own, so settings that sample or
    penalise need a copy to be rid of them: a shallow one, which shares the weights and leaves the model as it is.
    """
    own = model.generation_config
    eos = own.eos_token_id
    pad = own.pad_token_id if own.pad_token_id is not None else eos[0] if isinstance(eos, list) else eos
    twin = copy.copy(model)
    twin.generation_config = GenerationConfig(eos_token_id=eos, pad_token_id=pad)
    return twin


def _checked(
    adapter: ModelAdapter, input_ids: Tensor, mask: Tensor | None, max_new_tokens: int, eos: frozenset[int]
) -> Request:
    if input_ids.ndim != 2 or input_ids.shape[1] == 0:
        raise InputError(f"input_ids must be (1, T) with T >= 1, got shape {tuple(input_ids.shape)}")
    if input_ids.shape[0] != 1:
        raise InputError(f"batch size must be 1, got {input_ids.shape[0]}: decode one prompt at a time")
    if mask is not None and not bool(torch.all(mask == 1)):
        raise InputError("attention_mask must be all ones: padding is not supported, pass the prompt alone")
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens must be >= 1, got {max_new_tokens} (prompt of {input_ids.shape[1]} tokens)")
    limit = adapter.max_positions
    total = input_ids.shape[1] + max_new_tokens
    if limit is not None and total > limit:
        raise InputError(
            f"prompt and output must be <= {limit} tokens for {name_of(adapter.model)}, got "
            f"{input_ids.shape[1]} + {max_new_tokens}: lower max_new_tokens or shorten the prompt"
        )
    return Request(input_ids.to(adapter.device), max_new_tokens, eos)


def _eos_ids(eos: int | list[int] | Tensor | None) -> frozenset[int]:
    if eos is None:
        return frozenset()
    if isinstance(eos, Tensor):
        eos = eos.tolist()
    return frozenset({eos} if isinstance(eos, int) else eos)


def _refuse_config(config: GenerationConfig, adapter: ModelAdapter, overridden: frozenset[str] = frozenset()) -> None:
    """Refuses what a generation config asks for, unless an argument of the call says otherwise."""
    for name, neutral in NEUTRAL.items():
        value = getattr(config, name, None)
        if value not in neutral and name not in overridden:
            raise InputError(
                f"{name} must be {neutral[-1]!r} for the SpecBound decoder, got {value!r} "
                f"(generation config of {name_of(adapter.model)})"
            )


def _refuse_cache(cache: object) -> None:
    if cache is None:
        return
    if not isinstance(cache, DynamicCache):
        raise InputError(f"past_key_values must be a DynamicCache, got {type(cache).__name__}")
    if cache.get_seq_length() > 0:
        raise InputError(f"past_key_values must be empty, got {cache.get_seq_length()} tokens")
