"""What requests are understood, and what is refused by name."""

import json
from typing import Any

import pytest

from specbound.serve.errors import ApiError
from specbound.serve.schemas import ChatRequest, CompletionRequest, parsed

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def chat(**more: Any) -> ChatRequest:
    return parsed(json.dumps({**CHAT, **more}).encode(), ChatRequest)


def test_a_chat_is_read() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    asked = chat(messages=[{"role": "developer", "content": "x"}, {"role": "user", "content": parts}], stop="s", n=2)
    assert [message.plain() for message in asked.messages] == [
        {"role": "system", "content": "x"},
        {"role": "user", "content": "ab"},
    ]
    assert asked.stops == ("s",) and asked.num_choices == 2 and asked.most_tokens is None
    assert chat(max_tokens=3, max_completion_tokens=5).most_tokens == 5


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]]), ([], [])],
)
def test_prompts_of_every_form(prompt: Any, expected: Any) -> None:
    asked = parsed(json.dumps({"model": "m", "prompt": prompt}).encode(), CompletionRequest)
    assert asked.prompts == expected and asked.most_tokens == 16


def test_chances_are_asked_for_in_two_ways() -> None:
    assert chat().num_best is None and chat(logprobs=False, top_logprobs=0).num_best is None
    assert chat(logprobs=True).num_best == 0 and chat(logprobs=True, top_logprobs=4).num_best == 4
    asked = [
        parsed(json.dumps({"model": "m", "prompt": "a", "logprobs": n}).encode(), CompletionRequest) for n in (0, 3)
    ]
    assert [each.num_best for each in asked] == [0, 3]
    with pytest.raises(ApiError, match="logprobs"):
        parsed(b'{"model": "m", "prompt": "a", "logprobs": false}', CompletionRequest)


def test_what_asks_for_nothing_is_let_through() -> None:
    chat(user="u", metadata={"a": "b"}, logprobs=False, response_format={"type": "text"}, frequency_penalty=0, tools=[])


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logprobs": 2}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"beam": 2}, "beam"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"stop": [""]}, "stop"),
        ({"seed": 2**70}, "seed"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
    ],
)
def test_what_is_refused_is_named(more: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        chat(**more)
    assert caught.value.status == 400 and caught.value.param == param and param in caught.value.message


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b'{"model": "m"}'])
def test_what_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        parsed(body, ChatRequest)
    assert caught.value.status == 400 and caught.value.body()["error"]["type"] == "invalid_request_error"
