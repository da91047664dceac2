"""Clients that stream answers, several at a time, and when each piece of text came. Knows no server but its address."""

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from specbound.bench.load.servers import ServerError


@dataclass(slots=True)
class Answer:
    """One answer and its times."""

    prompt: int
    """Which one it answers."""
    num_tokens: int = 0
    """As the server counts them."""
    first_s: float = 0.0
    """From the request to the first text."""
    pauses_s: list[float] = field(default_factory=list)
    """Between one piece of text and the next."""
    text: str = ""

    @property
    def seconds_per_token(self) -> float:
        """After the first one; nan where there are no others."""
        return sum(self.pauses_s) / (self.num_tokens - 1) if self.num_tokens > 1 else float("nan")


@dataclass(frozen=True, slots=True)
class Measured:
    """One number of clients at one server, once."""

    seconds: float
    """From the first request to the last answer's end."""
    answers: list[Answer]
    """One for each prompt, in the order of the prompts."""

    @property
    def tokens_per_second(self) -> float:
        return sum(answer.num_tokens for answer in self.answers) / self.seconds


def bodies(texts: Sequence[str], model: str, max_new_tokens: int, is_chat: bool = False) -> list[dict[str, Any]]:
    """What clients send, greedy and streamed: texts to continue, or first messages of chats."""
    settings = {"model": model, "max_tokens": max_new_tokens, "temperature": 0, "stream": True}
    settings |= {"stream_options": {"include_usage": True}}
    if is_chat:
        return [{**settings, "messages": [{"role": "user", "content": text}]} for text in texts]
    return [{**settings, "prompt": text} for text in texts]


def measure(address: str, asks: Sequence[dict[str, Any]], num_clients: int, seconds: float) -> Measured:
    """All requests, so many at a time.

    Raises:
        TimeoutError: it took longer than `seconds`.
        ServerError: a request was refused, or broke off.
    """
    return asyncio.run(_measured(address, asks, num_clients, seconds))


async def _measured(address: str, asks: Sequence[dict[str, Any]], num_clients: int, seconds: float) -> Measured:
    waiting = iter(enumerate(asks))
    answers: list[Answer] = []
    limits = httpx.Limits(max_connections=num_clients, max_keepalive_connections=num_clients)
    async with (
        asyncio.timeout(seconds),
        httpx.AsyncClient(base_url=address, timeout=None, limits=limits, trust_env=False) as http,
    ):
        started = time.perf_counter()
        try:
            async with asyncio.TaskGroup() as clients:
                for _ in range(num_clients):
                    clients.create_task(_client(http, waiting, answers))
        except* (httpx.HTTPError, ServerError, ValueError, KeyError) as group:
            error = group.exceptions[0]
            raise ServerError(f"{type(error).__name__}: {error}") from None
        ended = time.perf_counter()
    return Measured(ended - started, sorted(answers, key=lambda answer: answer.prompt))


async def _client(
    http: httpx.AsyncClient, waiting: Iterator[tuple[int, dict[str, Any]]], answers: list[Answer]
) -> None:
    """Asks for one answer after the other, until all have been asked for."""
    for prompt, body in waiting:
        answers.append(await _answer(http, prompt, body))


async def _answer(http: httpx.AsyncClient, prompt: int, body: dict[str, Any]) -> Answer:
    answer = Answer(prompt)
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    newest = time.perf_counter()
    async with http.stream("POST", path, json=body) as response:
        if response.status_code != httpx.codes.OK:
            raise ServerError(f"{response.status_code} {(await response.aread()).decode(errors='replace')[:200]}")
        async for line in response.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            chunk = json.loads(line.removeprefix("data: "))
            if "error" in chunk:
                raise ServerError(str(chunk["error"])[:200])
            text = _text(chunk)
            if text:
                now = time.perf_counter()
                if answer.text:
                    answer.pauses_s.append(now - newest)
                else:
                    answer.first_s = now - newest
                answer.text, newest = answer.text + text, now
            if chunk.get("usage"):
                answer.num_tokens = chunk["usage"]["completion_tokens"]
    return answer


def _text(chunk: dict[str, Any]) -> str:
    """The new text of a chunk of either form."""
    if not chunk["choices"]:
        return ""
    choice = chunk["choices"][0]
    return (choice["delta"].get("content") if "delta" in choice else choice.get("text")) or ""
