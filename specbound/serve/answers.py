"""Answers in OpenAI's form, whole and in pieces. Knows no model and no HTTP."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from specbound.serve.engine import End


@dataclass(slots=True)
class Writer:
    """One response of a chat or a completion."""

    model: str
    is_chat: bool
    num_prompt_tokens: int
    """Of all prompts."""
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.id = f"{'chatcmpl' if self.is_chat else 'cmpl'}-{uuid.uuid4().hex}"

    def whole(self, texts: Sequence[str], ends: Sequence[End]) -> dict[str, Any]:
        """A response that is not streamed."""
        choices = [
            self._choice(index, end.reason, {"message": {"role": "assistant", "content": text, "refusal": None}}, text)
            for index, (text, end) in enumerate(zip(texts, ends, strict=True))
        ]
        kind = "chat.completion" if self.is_chat else "text_completion"
        return {**self._head(kind), "choices": choices, "usage": self.usage(ends)}

    def first(self, index: int) -> dict[str, Any]:
        """What a streamed chat begins with."""
        return self._chunk([self._choice(index, None, {"delta": {"role": "assistant", "content": ""}}, "")])

    def piece(self, index: int, text: str) -> dict[str, Any]:
        return self._chunk([self._choice(index, None, {"delta": {"content": text}}, text)])

    def last(self, index: int, end: End) -> dict[str, Any]:
        return self._chunk([self._choice(index, end.reason, {"delta": {}}, "")])

    def usage_chunk(self, ends: Sequence[End]) -> dict[str, Any]:
        return {**self._chunk([]), "usage": self.usage(ends)}

    def usage(self, ends: Sequence[End]) -> dict[str, Any]:
        """Counts of all answers together. Rejected drafts are no tokens of an answer."""
        num_tokens = sum(end.num_tokens for end in ends)
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": num_tokens,
            "total_tokens": self.num_prompt_tokens + num_tokens,
            "completion_tokens_details": {
                "accepted_prediction_tokens": sum(end.num_accepted for end in ends),
                "rejected_prediction_tokens": sum(end.num_rejected for end in ends),
                "reasoning_tokens": 0,
            },
        }

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head("chat.completion.chunk" if self.is_chat else "text_completion"), "choices": choices}

    def _choice(self, index: int, reason: str | None, chat: dict[str, Any], text: str) -> dict[str, Any]:
        own = chat if self.is_chat else {"text": text}
        return {"index": index, **own, "logprobs": None, "finish_reason": reason}
