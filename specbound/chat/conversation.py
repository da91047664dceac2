"""Turns of a conversation. Every answer continues from the cache of the last one. Knows no terminal."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from specbound.decoding.stats import DecodeStats
from specbound.generation.generate import Prepared
from specbound.models.loading import chat_ids, has_chat_template
from specbound_controller.errors import InputError
from specbound_profiling.prompts.tokenization import known_ids, text_ids


class FullContextError(InputError):
    """The model has no room for one more answer."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer."""

    text: str
    """Special tokens left out."""
    stats: DecodeStats
    cut: str
    """Which limit cut it off, in words; empty where none did."""


class Conversation:
    """Messages and answers in turn, by the model's chat template; or one text that both sides write (`is_raw`)."""

    def __init__(self, prepared: Prepared, system: str | None = None, is_raw: bool = False) -> None:
        """An empty one. Raises InputError where the model takes no such conversation."""
        name = prepared.loaded.name
        if not is_raw and not has_chat_template(prepared.loaded):
            raise InputError(
                f"chat needs a model with a chat template, and model {name!r} has none: give --raw, which continues "
                "text, or another --model"
            )
        self.prepared, self.is_raw = prepared, is_raw
        self._system = [] if system is None else [{"role": "system", "content": system}]
        self.reset()
        if not is_raw:
            chat_ids(prepared.loaded, [*self.messages, {"role": "user", "content": "?"}])  # a template may refuse roles

    def reset(self) -> None:
        """Forgets everything but the system prompt."""
        self.messages = list(self._system)
        self.text = ""
        """Of a raw conversation: all so far."""
        self.cache: Cache | None = None

    def reply(self, message: str, **others: Any) -> Reply:
        """The answer to one more message, which is part of the conversation once it is there.

        others: arguments of `decode` besides the prepared ones.

        Raises:
            FullContextError: no token of an answer fits behind the message; the conversation is as it was.
        """
        ids = self._ids(message)
        room = self._room(ids)
        wanted = self.prepared.arguments["max_new_tokens"]
        arguments = {**self.prepared.arguments, "max_new_tokens": min(wanted, room)}
        output = self.prepared.decoder.decode([ids], past_key_values=self.cache, **arguments, **others)
        self.cache = output.past_key_values
        tokens = output.sequences[0, ids.shape[1] :]
        text = self._decoded(tokens)
        self._append(message, ids, output.sequences[0], text)
        return Reply(text, output.stats, self._cut(tokens, wanted, room))

    def _ids(self, message: str) -> Tensor:
        """All that the answer continues. (1, T)"""
        loaded = self.prepared.loaded
        if self.is_raw:
            return text_ids(self._with(message), loaded, "the text")
        return known_ids(chat_ids(loaded, [*self.messages, _said("user", message)]), loaded, "the message")

    def _with(self, message: str) -> str:
        """A raw conversation's text and one more line."""
        return f"{self.text}\n{message}" if self.text else message

    def _room(self, ids: Tensor) -> int:
        """Tokens that fit behind a prompt."""
        limit = self.prepared.decoder.adapter.max_positions
        if limit is None:
            return self.prepared.arguments["max_new_tokens"] + 1
        if ids.shape[1] >= limit:
            raise FullContextError(
                f"the conversation would be {ids.shape[1]} tokens long, and model {self.prepared.loaded.name!r} takes "
                f"{limit} with the answer: /reset begins a new one"
            )
        return limit - ids.shape[1]

    def _append(self, message: str, ids: Tensor, sequence: Tensor, text: str) -> None:
        self.messages += [_said("user", message), _said("assistant", text)]
        if self.is_raw:  # not `text`: a tokenizer may drop the space that an answer begins with
            self.text = self._with(message) + self._decoded(sequence).removeprefix(self._decoded(ids[0]))

    def _decoded(self, tokens: Tensor) -> str:
        return str(self.prepared.loaded.tokenizer.decode(tokens, skip_special_tokens=True))

    def _cut(self, tokens: Tensor, wanted: int, room: int) -> str:
        ends = torch.as_tensor(self.prepared.decoder.model.generation_config.eos_token_id or [])
        if tokens.shape[0] < min(wanted, room) or torch.isin(tokens[-1].cpu(), ends):
            return ""
        return "cut off by --max-new-tokens" if wanted <= room else "the model's context is full: /reset begins anew"


def _said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
