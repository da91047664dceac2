"""The official client against a running server: every answer is the decoder's own for the same request alone."""

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import openai
import pytest

from specbound.decoding.running import ROOM_FOR_DRAFTS
from specbound.models.loading import chat_ids
from specbound.serve.app import model_card
from specbound.serve.errors import ApiError
from specbound.serve.loaded import service_of
from specbound.serve.schemas import ChatRequest, CompletionRequest, Message
from tests.serve.running_server import KEY, Running, asks, texts_of, until


def test_the_model_is_listed(running: Running) -> None:
    assert [model.id for model in running.client().models.list()] == ["tiny"]
    assert running.client().models.retrieve("tiny").id == "tiny"


def test_a_chat_is_answered_as_alone(running: Running) -> None:
    messages: Any = [{"role": "user", "content": "the cat sat"}]
    answer = running.client().chat.completions.create(model="tiny", messages=messages, temperature=0, max_tokens=40)
    ids = chat_ids(running.prepared.loaded, messages)
    assert answer.choices[0].message.content == running.alone(ids, max_new_tokens=40)
    usage = answer.usage
    assert usage is not None and usage.prompt_tokens == ids.shape[1]
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens <= ids.shape[1] + 40


def test_a_completion_is_answered_as_alone_and_its_drafts_are_counted(running: Running) -> None:
    before = running.figure("spec_decode_num_accepted_tokens_total")
    answer = running.client().completions.create(model="tiny", prompt="the cat", temperature=0, max_tokens=60)
    assert answer.choices[0].text == running.alone("the cat", max_new_tokens=60)
    assert answer.usage is not None and answer.usage.completion_tokens_details is not None
    accepted = answer.usage.completion_tokens_details.accepted_prediction_tokens
    assert accepted and accepted == running.figure("spec_decode_num_accepted_tokens_total") - before


def test_a_stream_gives_the_same_text_in_pieces(running: Running) -> None:
    client = running.client()
    whole = client.completions.create(model="tiny", prompt="the dog", temperature=0, max_tokens=30)
    chunks = list(
        client.completions.create(
            model="tiny",
            prompt="the dog",
            temperature=0,
            max_tokens=30,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert chunks[-1].usage is not None and whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
    assert len(chunks) > 4


def test_a_streamed_chat_begins_with_its_role(running: Running) -> None:
    messages: Any = [{"role": "user", "content": "the dog"}]
    chunks = list(
        running.client().chat.completions.create(model="tiny", messages=messages, max_tokens=9, seed=1, stream=True)
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")


def test_seeds_give_what_they_give_alone(running: Running) -> None:
    settings: Any = {"model": "tiny", "prompt": "the tree", "temperature": 1.0, "top_p": 0.9, "max_tokens": 20}
    answer = running.client().completions.create(**settings, seed=5, n=3)
    alone = {"max_new_tokens": 20, "do_sample": True, "temperature": 1.0, "top_p": 0.9, "top_k": 0}
    expected = [running.alone("the tree", **alone, seed=5 + index) for index in range(3)]
    assert [choice.text for choice in answer.choices] == expected and len(set(expected)) > 1
    assert [choice.index for choice in answer.choices] == [0, 1, 2]


def test_text_ends_before_a_stop(running: Running) -> None:
    whole = running.alone("one two", max_new_tokens=30, do_sample=True, temperature=1.5, top_k=0, seed=3)
    stop = whole.split()[4]
    answer = running.client().completions.create(
        model="tiny", prompt="one two", max_tokens=30, temperature=1.5, seed=3, stop=[stop, "never"]
    )
    assert answer.choices[0].text == whole[: whole.index(stop)] and answer.choices[0].finish_reason == "stop"


def test_prompts_may_be_tokens_and_several(running: Running) -> None:
    tokenizer = running.prepared.loaded.tokenizer
    tokens = [tokenizer(text)["input_ids"] for text in ("the cat", "def return")]
    answer = running.client().completions.create(model="tiny", prompt=tokens, temperature=0, max_tokens=8)
    assert [choice.text for choice in answer.choices] == [
        running.alone(text, max_new_tokens=8) for text in ("the cat", "def return")
    ]


def test_a_conversation_is_continued_from_its_cache(running: Running) -> None:
    client = running.client()
    messages: list[Any] = [{"role": "user", "content": "the cat sat on the mat and then the dog"}]
    for _ in range(3):
        hits = running.figure("prefix_cache_hits_total")
        answer = client.chat.completions.create(model="tiny", messages=messages, temperature=0, max_tokens=12)
        text = answer.choices[0].message.content
        assert text == running.alone(chat_ids(running.prepared.loaded, messages), max_new_tokens=12)
        messages += [{"role": "assistant", "content": text}, {"role": "user", "content": "and then"}]
    assert running.figure("prefix_cache_hits_total") - hits > 8


@pytest.mark.parametrize("key", ["wrong", "right", "right keys", "ключ"])
def test_a_wrong_key_is_refused(running: Running, key: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
    connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {key}".encode()})
    response = connection.getresponse()
    assert response.status == 401 and json.loads(response.read())["error"]["code"] == "invalid_api_key"


def test_the_client_names_a_wrong_key(running: Running) -> None:
    with pytest.raises(openai.AuthenticationError):
        running.client("wrong").completions.create(model="tiny", prompt="the")


def test_wrong_requests_are_refused_in_openais_form(running: Running) -> None:
    client = running.client()
    with pytest.raises(openai.NotFoundError, match="other"):
        client.completions.create(model="other", prompt="the")
    with pytest.raises(openai.BadRequestError, match="takes 512"):
        client.completions.create(model="tiny", prompt=[5] * 600)
    with pytest.raises(openai.BadRequestError, match="max_tokens"):
        client.completions.create(model="tiny", prompt="the", max_tokens=481)
    with pytest.raises(openai.BadRequestError, match="logprobs"):
        client.completions.create(model="tiny", prompt="the", logprobs=21)
    with pytest.raises(openai.BadRequestError, match="token"):
        client.completions.create(model="tiny", prompt="", max_tokens=2)
    assert running.raw(b"{")[0] == 400
    assert running.raw(b'{"model": "tiny", "prompt": "x"}', **{"Content-Type": "text/plain"})[0] == 415
    status, body = running.raw(json.dumps({"model": "tiny", "prompt": "x" * 9000}).encode())
    assert status == 413 and body["error"]["code"] == "body_too_large"
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="tiny", input="x")


def test_what_can_never_fit_into_memory_is_refused_before_any_work(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("specbound.serve.loaded.MIB", 2**18)
    service = service_of(replace(running.config, cache_mib=1), running.prepared, KEY)
    most = 2**18 // (4 * 2 * 2 * 8 * 8) - ROOM_FOR_DRAFTS  # layers, keys and values, heads, width, bytes of float64
    assert service.most_context == model_card(service)["max_model_len"] == most < 480
    with pytest.raises(ApiError, match=f"takes {most} tokens") as caught:
        service.orders(CompletionRequest(model="tiny", prompt=[5] * 30, max_tokens=most - 29))
    assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")
    (order,) = service.orders(ChatRequest(model="tiny", messages=[Message(role="user", content="the cat")]))
    assert order.arguments["max_new_tokens"] == most - len(order.prompt)


def test_a_body_of_unknown_size_is_cut_off(running: Running) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    chunks = iter([b" " * 4096] * 4)
    connection.request("POST", "/v1/completions", chunks, headers, encode_chunked=True)
    assert connection.getresponse().status == 413


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_that_goes_away_frees_its_place(running: Running, is_stream: bool) -> None:
    before = running.figure("request_success_total", finished_reason="abort")
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
    body = {"model": "tiny", "prompt": "the", "max_tokens": 480, "temperature": 2.0, "n": 4, "stream": is_stream}
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    if is_stream:
        assert connection.getresponse().readline().startswith(b"data: ")
    else:
        until(lambda: running.figure("num_requests_running") > 0)
    connection.close()
    if connection.sock is not None:
        connection.sock.close()
    until(lambda: running.figure("request_success_total", finished_reason="abort") > before)
    until(lambda: running.figure("num_requests_running") == 0)
    answer = running.client().completions.create(model="tiny", prompt="the cat", temperature=0, max_tokens=9)
    assert answer.choices[0].text == running.alone("the cat", max_new_tokens=9)


def expected_of(running: Running, ask: dict[str, Any]) -> list[str]:
    """What the decoder gives alone, cut before the first stop text."""
    prompt = chat_ids(running.prepared.loaded, ask["messages"]) if "messages" in ask else ask["prompt"]
    found = []
    for index in range(ask.get("n", 1)):
        arguments: dict[str, Any] = {"max_new_tokens": ask["max_tokens"]}
        if "seed" in ask:
            own = {name: ask[name] for name in ("temperature", "top_p")}
            arguments |= {"do_sample": True, "top_k": 0, **own, "seed": ask["seed"] + index}
        text = running.alone(prompt, **arguments)
        places = [place for stop in ask.get("stop", []) if (place := text.find(stop)) >= 0]
        found.append(text[: min(places)] if places else text)
    return found


def test_many_clients_get_what_one_gets(running: Running) -> None:
    client, all_asks = running.client(), asks(200)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda ask: texts_of(client, ask), all_asks))
    for ask, texts in zip(all_asks, found, strict=True):
        assert texts == expected_of(running, ask), ask
    assert not running.service.engine._answers and not running.service.engine._waiting


def test_figures_have_the_names_of_dashboards(running: Running) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    for name in (
        "vllm:spec_decode_num_drafts_total{",
        'vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="tiny",position="0"}',
        "vllm:time_to_first_token_seconds_bucket{",
        "vllm:inter_token_latency_seconds_sum{",
        "vllm:num_requests_waiting{",
        "vllm:generation_tokens_total{",
    ):
        assert name in text
    connection.request("GET", "/health")
    assert connection.getresponse().status == 200


def test_nothing_of_a_prompt_is_logged(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    client = running.client()
    client.completions.create(model="tiny", prompt="the mat under the tree", max_tokens=2)
    assert not [
        record for record in caplog.records if "mat under" in record.getMessage() and "specbound" in record.name
    ]
    assert not [record for record in caplog.records if "mat under" in record.getMessage() and "uvicorn" in record.name]
