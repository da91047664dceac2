"""What of a call to generate cannot be honoured, refused by name and with the reason; nothing is computed here."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.cache_utils import Cache, DynamicCache, StaticCache

from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.model.cache import DecodeCache
from specbound.decoding.model.families import name_of
from specbound_controller.errors import InputError

NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "num_beams": (None, 1),
    "num_beam_groups": (None, 1),
    "constraints": (None,),
    "force_words_ids": (None,),
    "penalty_alpha": (None, 0, 0.0),
    "dola_layers": (None,),
    "prompt_lookup_num_tokens": (None,),
    "assistant_early_exit": (None,),
    "is_assistant": (None, False),
    "use_mtp": (None, False),
    "speculation_type": (None,),
    "guidance_scale": (None, 1, 1.0),
    "output_attentions": (None, False),
    "output_hidden_states": (None, False),
}
"""Settings of a generation config that are refused, each with the values that ask for nothing."""

REFUSED_ARGUMENTS = (
    "assistant_model",
    "assistant_tokenizer",
    "custom_generate",
    "negative_prompt_ids",
    "negative_prompt_attention_mask",
    "synced_gpus",
)
"""Arguments of transformers' generate that choose another way to decode, or other inputs."""

PREPARED_ARGUMENTS = frozenset({"attention_mask", "position_ids", "past_key_values", "use_cache", "logits_to_keep"})
"""What transformers prepares for a forward pass, and the decoder reads or does not depend on."""


def refuse_settings(config: GenerationConfig, model_kwargs: Mapping[str, Any], adapter: ModelAdapter) -> None:
    """Raises InputError that names a setting or an argument that asks for something else than this decoder does."""
    for name, neutral in NEUTRAL.items():
        value = getattr(config, name, None)
        if value not in neutral:
            raise InputError(
                f"{name} must be {neutral[-1]!r} for the SpecBound decoder, got {shown(value)} "
                f"(an argument, or the generation config of {name_of(adapter.model)})"
            )
    if model_kwargs.get("use_cache", True) is None:
        raise InputError(
            "use_cache must be True or False, got None: transformers then makes a cache and hands it the whole text "
            "again at every token"
        )
    if config.cache_implementation == "quantized":
        raise InputError("cache_implementation must not be 'quantized': the decoder keeps keys and values as they are")
    for name, value in model_kwargs.items():
        if name not in PREPARED_ARGUMENTS and value is not None:
            raise InputError(f"{name} is not supported by the SpecBound decoder, got {shown(value)}")


def check_positions(position_ids: Tensor | None, paddings: Sequence[int], length: int) -> None:
    """Raises where a caller numbers positions in a way of his own."""
    if position_ids is None:
        return
    for row, padding in zip(position_ids, paddings, strict=True):
        expected = torch.arange(-padding, length - padding)[-row.shape[0] :]
        if not torch.equal(row.cpu()[expected >= 0], expected[expected >= 0]):
            raise InputError("position_ids must count the tokens of each prompt from 0, or be left out")


def check_length(adapter: ModelAdapter, prompt_length: int, max_new_tokens: int) -> None:
    """Raises where there is nothing to generate, or the model has no positions for it: before any work is done."""
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens must be >= 1, got {max_new_tokens} (prompt of {prompt_length} tokens)")
    limit = adapter.max_positions
    if limit is not None and prompt_length + max_new_tokens > limit:
        raise InputError(
            f"prompt and output must be <= {limit} tokens for {name_of(adapter.model)}, got "
            f"{prompt_length} + {max_new_tokens}: lower max_new_tokens or shorten the prompt"
        )


def refuse_healing(value: object) -> None:
    """Raises where a prompt's last token is to be replaced: transformers gives no decoding function a tokenizer."""
    if value:
        raise InputError("token_healing must be False for the SpecBound decoder: heal the prompt before the call")


def refuse_no_cache(value: object) -> None:
    """Raises where something else is given for a cache."""
    if value is not None and not isinstance(value, Cache):
        raise InputError(f"past_key_values must be a transformers Cache, got {type(value).__name__}")


def checked_cache(adapter: ModelAdapter, cache: object, paddings: Sequence[int], most_tokens: int) -> Cache | None:
    """The caller's cache, to continue from and to be filled; None for one that transformers has made for this call.

    most_tokens: of prompt and output together.

    Raises:
        InputError: a cache that cannot be continued, before any work.
    """
    if cache is None:
        return None
    refuse_no_cache(cache)
    if not isinstance(cache, DecodeCache) and not getattr(cache, "_is_user_defined", False):
        return None
    if len(paddings) > 1:
        raise InputError(f"past_key_values must belong to one sequence, got a batch of {len(paddings)}")
    assert isinstance(cache, Cache)
    if isinstance(cache, DecodeCache):
        return cache
    if type(cache) not in (DynamicCache, StaticCache) or cache.offloading:
        raise InputError(
            f"past_key_values must be a DynamicCache, an empty StaticCache or this decoder's own, got "
            f"{type(cache).__name__}{', which offloads' if getattr(cache, 'offloading', False) else ''}"
        )
    if type(cache) is StaticCache:
        room = min((layer.get_max_length() for layer in cache.layers if not layer.is_sliding), default=most_tokens)
        if cache.get_seq_length() > 0 or room < most_tokens - 1:
            raise InputError(
                f"past_key_values must be empty with room for {most_tokens - 1} tokens where it is a StaticCache, got "
                f"{cache.get_seq_length()} tokens in {room}"
            )
    if paddings[0]:
        raise InputError(f"past_key_values must go without padding, got {paddings[0]} tokens of it: cut them off")
    return cache


def shown(value: object) -> str:
    """A value for a message: short, or its type."""
    text = repr(value)
    return text if len(text) <= 60 else type(value).__name__
