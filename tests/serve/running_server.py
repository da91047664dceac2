"""A server in a thread, and clients who ask it all kinds of things."""

import http.client
import json
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import openai
import torch

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.generation.generate import Prepared
from specbound.serve.config import ServeConfig
from specbound.serve.loaded import service_of
from specbound.serve.run import bound, server_of

KEY = "right key"
WORDS = ("the", "cat", "dog", "sat", "on", "tree", "and", "then", "def", "return", "two")


class Running:
    """A server in a thread, with the decoder that it must agree with."""

    def __init__(self, prepared: Prepared, config: ServeConfig) -> None:
        self.prepared, self.config = prepared, config
        self.listener = bound("127.0.0.1", 0)
        self.port = self.listener.getsockname()[1]
        self.service = service_of(config, prepared, KEY)
        self.server = server_of(self.service)
        self.thread = threading.Thread(target=lambda: self.server.run(sockets=[self.listener]), daemon=True)
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive()
            time.sleep(0.01)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(60)
        assert not self.thread.is_alive()
        self.listener.close()

    def client(self, key: str = KEY) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=key, max_retries=0, timeout=120)

    def raw(self, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        all_headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}", **headers}
        connection.request("POST", "/v1/completions", body, all_headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())

    def figure(self, name: str, **labels: str) -> float:
        labels = {"model_name": self.config.name, "engine": "0", **labels}
        return self.service.metrics.registry.get_sample_value(f"vllm:{name}", labels) or 0.0

    def alone(self, prompt: str | torch.Tensor, **arguments: Any) -> str:
        """The text that the decoder gives for one prompt by itself."""
        tokenizer = self.prepared.loaded.tokenizer
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"] if isinstance(prompt, str) else prompt
        decoder = SpecBoundDecoder(self.prepared.decoder.model)
        tokens = decoder.decode(ids, **arguments).sequences[0, ids.shape[1] :].tolist()
        return str(tokenizer.decode(tokens, skip_special_tokens=True))


def until(is_true: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.02)


def asks(num: int) -> list[dict[str, Any]]:
    """Random chats and completions, whole and streamed, greedy and sampled, with stops and several answers."""
    generator, found = random.Random(0), []
    for index in range(num):
        text = " ".join(generator.choices(WORDS, k=generator.randrange(1, 20)))
        ask: dict[str, Any] = {"model": "tiny", "max_tokens": generator.randrange(1, 24), "temperature": 0}
        if generator.random() < 0.6:
            sampled = {"temperature": generator.choice([0.7, 1.3]), "top_p": generator.choice([1.0, 0.8])}
            ask |= {**sampled, "seed": index, "n": generator.randrange(1, 3)}
        if generator.random() < 0.3:
            ask["stop"] = generator.sample(WORDS, 2)
        is_chat = generator.random() < 0.4
        if generator.random() < 0.2:
            ask |= {"logprobs": True, "top_logprobs": 2} if is_chat else {"logprobs": 2}
        ask |= {"messages": [{"role": "user", "content": text}]} if is_chat else {"prompt": text}
        found.append({**ask, "stream": generator.random() < 0.5})
    return found


def texts_of(client: openai.OpenAI, ask: dict[str, Any]) -> list[str]:
    """The answers to a request, whatever their form."""
    kind: Any = client.chat.completions if "messages" in ask else client.completions
    found = kind.create(**ask)
    if not ask["stream"]:
        return [choice.message.content if "messages" in ask else choice.text for choice in found.choices]
    texts = [""] * ask.get("n", 1)
    for choice in (choice for chunk in found for choice in chunk.choices):
        texts[choice.index] += (choice.delta.content or "") if "messages" in ask else choice.text
    return texts
