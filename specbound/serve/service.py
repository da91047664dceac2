"""What one server consists of: a model by its name, the engine, the limits; and how a request becomes jobs.

Knows OpenAI's request bodies; knows no HTTP.
"""

import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import GenerationConfig

from specbound.models.loading import LoadedModel, chat_ids
from specbound.serve.engine import Engine
from specbound.serve.errors import ApiError
from specbound.serve.metrics import Metrics
from specbound.serve.schemas import Asked, ChatRequest, CompletionRequest
from specbound_controller.errors import InputError
from specbound_profiling.prompts.tokenization import known_ids, text_ids


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may be."""

    max_prompt_tokens: int | None
    max_new_tokens: int
    max_body_bytes: int
    max_choices: int
    """Answers to one request."""
    body_seconds: float = 30.0
    """How long a body may take to arrive."""


@dataclass(frozen=True, slots=True)
class Order:
    """One answer to be decoded."""

    prompt: tuple[int, ...]
    arguments: dict[str, Any]


@dataclass(slots=True)
class Service:
    """A model that is served."""

    loaded: LoadedModel
    name: str
    """What clients call it."""
    engine: Engine
    metrics: Metrics
    limits: Limits
    most_context: int
    """Tokens of prompt and answer together: what the model has positions for, and memory."""
    api_key: str | None = None
    drain_seconds: float = 30.0
    _tokenizing: threading.Lock = field(default_factory=threading.Lock)

    def orders(self, asked: ChatRequest | CompletionRequest) -> list[Order]:
        """What a request asks for, n answers to each prompt. Raises ApiError that says what cannot be done."""
        if asked.model != self.name:
            raise ApiError(
                404,
                f"the model {asked.model!r} does not exist; this server has {self.name!r}",
                param="model",
                code="model_not_found",
            )
        prompts = self._prompts(asked)
        num_answers = len(prompts) * asked.num_choices
        if num_answers > self.limits.max_choices:
            raise ApiError(
                400, f"a request may ask for {self.limits.max_choices} answers, got {num_answers}", param="n"
            )
        seed = asked.seed if asked.seed is not None else secrets.randbelow(2**62)
        orders: list[Order] = []
        for prompt in prompts:
            most = self._most_tokens(asked, len(prompt))
            for _ in range(asked.num_choices):
                arguments = {"max_new_tokens": most, **self._sampling(asked, seed + len(orders))}
                if asked.num_best is not None:
                    arguments |= {"output_logits": True, "return_dict_in_generate": True}
                orders.append(Order(prompt, arguments))
        return orders

    def _prompts(self, asked: ChatRequest | CompletionRequest) -> list[tuple[int, ...]]:
        try:
            with self._tokenizing:  # fast tokenizers are not for several threads
                if isinstance(asked, ChatRequest):
                    found = [self._chat(asked)]
                else:
                    found = [self._text(each) for each in asked.prompts]
        except InputError as error:
            param = "messages" if isinstance(asked, ChatRequest) else "prompt"
            raise ApiError(400, str(error), param=param) from error
        if not found:
            raise ApiError(400, "prompt must hold at least one text", param="prompt")
        return found

    def _chat(self, asked: ChatRequest) -> tuple[int, ...]:
        ids = chat_ids(self.loaded, [message.plain() for message in asked.messages])
        return tuple(known_ids(ids, self.loaded, "the conversation")[0].tolist())

    def _text(self, prompt: str | Sequence[int]) -> tuple[int, ...]:
        if isinstance(prompt, str):
            return tuple(text_ids(prompt, self.loaded, "the prompt")[0].tolist())
        num_rows = self.loaded.model.get_input_embeddings().num_embeddings
        if not prompt or not all(0 <= token < num_rows for token in prompt):
            raise InputError(f"a prompt of tokens must hold at least one, each in [0, {num_rows - 1}]")
        return tuple(prompt)

    def _most_tokens(self, asked: Asked, prompt_length: int) -> int:
        """Of an answer. Raises ApiError where prompt or answer are longer than may be."""
        limits, wanted = self.limits, asked.most_tokens
        if limits.max_prompt_tokens is not None and prompt_length > limits.max_prompt_tokens:
            raise ApiError(
                400,
                f"the prompt may have {limits.max_prompt_tokens} tokens, got {prompt_length}",
                code="context_length_exceeded",
            )
        if wanted is not None and wanted > limits.max_new_tokens:
            raise ApiError(
                400, f"max_tokens may be {limits.max_new_tokens} on this server, got {wanted}", param="max_tokens"
            )
        most = wanted if wanted is not None else limits.max_new_tokens
        left = self.most_context - prompt_length
        if left < 1 or (wanted is not None and wanted > left):
            raise ApiError(
                400,
                f"this server takes {self.most_context} tokens, got {prompt_length} of the prompt and "
                f"{wanted or 1} of the answer",
                code="context_length_exceeded",
            )
        return min(most, left)

    def _sampling(self, asked: Asked, seed: int) -> dict[str, Any]:
        """The decoder's arguments; what a client leaves out is as the model's own generation config says."""
        own: GenerationConfig = self.loaded.model.generation_config
        samples = asked.temperature is not None or asked.top_p is not None or bool(own.do_sample)
        temperature = asked.temperature if asked.temperature is not None else _or(own.temperature, 1.0)
        if not samples or temperature == 0:
            return {"do_sample": False}
        follows_own = asked.temperature is None and asked.top_p is None and bool(own.do_sample)
        top_p = asked.top_p if asked.top_p is not None else _or(own.top_p, 1.0) if follows_own else 1.0
        top_k = asked.top_k if asked.top_k is not None else _or(own.top_k, 0) if follows_own else 0
        sampling = {"do_sample": True, "temperature": float(temperature), "top_p": float(top_p), "top_k": top_k}
        return {**sampling, "seed": seed}


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
