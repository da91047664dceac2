"""Strings and chat messages as token ids, where a caller hands over a tokenizer. Knows no decoding."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from specbound_controller.errors import InputError

Message = Mapping[str, Any]
"""`{"role": "user", "content": "..."}`"""


def is_text(inputs: Any) -> TypeGuard[str | Sequence[str]]:
    """Whether prompts are strings: one, or a list of them."""
    if isinstance(inputs, str):
        return True
    return isinstance(inputs, list | tuple) and bool(inputs) and all(isinstance(each, str) for each in inputs)


def text_prompts(inputs: str | Sequence[str], tokenizer: PreTrainedTokenizerBase | None) -> list[Tensor]:
    """Token ids (1, T) of each prompt, as they stand: no chat template. Raises InputError without a tokenizer."""
    texts = [inputs] if isinstance(inputs, str) else list(inputs)
    if tokenizer is None:
        raise InputError(
            f"inputs must be token ids, got the text {texts[0][:40]!r}: pass tokenizer=..., or use "
            "decoder.chat(messages, tokenizer)"
        )
    return [torch.tensor([tokenizer(text)["input_ids"]], dtype=torch.long) for text in texts]


def chat_prompt(messages: str | Message | Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Token ids (1, T) of a conversation that the model is to continue; a string is one message of the user.

    Raises InputError where the tokenizer has no chat template, or the messages are none.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            "chat needs a tokenizer with a chat template, and this one has none: use decoder.generate(text, "
            "tokenizer=tokenizer)"
        )
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    elif isinstance(messages, Mapping):
        messages = [messages]
    for message in messages:
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise InputError(f"messages must look like {{'role': 'user', 'content': 'text'}}, got {message!r:.60}")
    ids = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=True, return_dict=True)
    return torch.tensor([ids["input_ids"]], dtype=torch.long)
