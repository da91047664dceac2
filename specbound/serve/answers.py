"""Answers in OpenAI's form, whole and in pieces. Knows no model and no HTTP."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from specbound.serve.jobs import End, Piece
from specbound.serve.logprobs import Chance, TokenChance
from specbound.serve.text_stream import UNFINISHED


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

    def whole(
        self, texts: Sequence[str], chances: Sequence[Sequence[TokenChance]], ends: Sequence[End]
    ) -> dict[str, Any]:
        """A response that is not streamed. chances: of each answer's tokens; empty where nobody asked"""
        choices = [
            self._choice(
                index, end.reason, {"message": {"role": "assistant", "content": text, "refusal": None}}, text, own
            )
            for index, (text, own, end) in enumerate(zip(texts, chances, ends, strict=True))
        ]
        kind = "chat.completion" if self.is_chat else "text_completion"
        return {**self._head(kind), "choices": choices, "usage": self.usage(ends)}

    def first(self, index: int) -> dict[str, Any]:
        """What a streamed chat begins with."""
        return self._chunk([self._choice(index, None, {"delta": {"role": "assistant", "content": ""}}, "")])

    def piece(self, index: int, piece: Piece) -> dict[str, Any]:
        return self._chunk([self._choice(index, None, {"delta": {"content": piece.text}}, piece.text, piece.chances)])

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

    def _choice(
        self,
        index: int,
        reason: str | None,
        chat: dict[str, Any],
        text: str,
        chances: Sequence[TokenChance] = (),
    ) -> dict[str, Any]:
        own = chat if self.is_chat else {"text": text}
        logprobs = None if not chances else of_chat(chances) if self.is_chat else of_completion(chances)
        return {"index": index, **own, "logprobs": logprobs, "finish_reason": reason}


def of_chat(chances: Sequence[TokenChance]) -> dict[str, Any]:
    """`logprobs` of a chat's choice."""
    content = [{**_token(each.chosen), "top_logprobs": list(map(_token, each.best))} for each in chances]
    return {"content": content, "refusal": None}


def _token(chance: Chance) -> dict[str, Any]:
    """A token that holds a part of a character has no bytes here: they are told where the character is complete."""
    own_bytes = None if UNFINISHED in chance.text else list(chance.text.encode())
    return {"token": chance.text, "logprob": chance.logprob, "bytes": own_bytes}


def of_completion(chances: Sequence[TokenChance]) -> dict[str, Any]:
    """`logprobs` of a completion's choice. The chosen token is always among the best; of two of one text the better
    one is."""
    return {
        "tokens": [each.chosen.text for each in chances],
        "token_logprobs": [each.chosen.logprob for each in chances],
        "top_logprobs": [{best.text: best.logprob for best in (each.chosen, *reversed(each.best))} for each in chances],
        "text_offset": [each.offset for each in chances],
    }
