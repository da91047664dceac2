"""Clients, rows and processes of bench-serve, on a server of a few lines."""

import http.server
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from specbound.bench.load import run as stage
from specbound.bench.load.client import Answer, Measured, bodies, measure
from specbound.bench.load.config import SERVERS, LoadConfig
from specbound.bench.load.result import Cell, LoadResult, ratio_lines, table
from specbound.bench.load.servers import ServerError, started, words_of
from specbound_controller.errors import InputError
from tests.test_imports import source_environment


class Handler(http.server.BaseHTTPRequestHandler):
    """Streams the words of the prompt, a pause between them; no prompt named `bad`."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_chat = "messages" in body
        prompt = body["messages"][0]["content"] if is_chat else body["prompt"]
        self.send_response(400 if prompt == "bad" else 200)
        self.end_headers()
        if prompt == "bad":
            self.wfile.write(b"no such prompt")
            return
        words = prompt.split()
        for word in words:
            text = f"{word} "
            choice = {"delta": {"content": text}} if is_chat else {"text": text}
            self._send({"choices": [choice]})
            time.sleep(0.02)
        self._send({"choices": [], "usage": {"completion_tokens": 2 * len(words)}})
        self.wfile.write(b"data: [DONE]\n\n")

    def _send(self, chunk: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("is_chat", [True, False])
def test_answers_come_in_the_order_of_their_prompts_with_their_times(address: str, is_chat: bool) -> None:
    texts = ["one two three", "four", "five six"]
    found = measure(address, bodies(texts, "m", 8, is_chat), 2, 60)
    assert [answer.text.strip() for answer in found.answers] == texts
    assert [answer.num_tokens for answer in found.answers] == [6, 2, 4]
    assert [len(answer.pauses_s) for answer in found.answers] == [2, 0, 1]
    first = found.answers[0]
    assert first.seconds_per_token == sum(first.pauses_s) / 5 >= 0.03 / 5
    assert found.tokens_per_second == 12 / found.seconds and first.first_s > 0


def test_a_request_that_is_refused_is_named_and_one_that_takes_too_long_ends(address: str) -> None:
    with pytest.raises(ServerError, match="400 no such prompt"):
        measure(address, bodies(["one", "bad"], "m", 8), 2, 60)
    with pytest.raises(TimeoutError):
        measure(address, bodies(["one " * 100], "m", 8), 1, 0.2)


def measured(seconds: float, *texts: str) -> Measured:
    return Measured(seconds, [Answer(index, 10, 0.5, [0.1], text) for index, text in enumerate(texts)])


def test_rows_hold_medians_and_answers_are_compared_with_one_clients() -> None:
    cells = [
        Cell(0, 1, "plain", measured(2.0, "a", "b")),
        Cell(0, 1, "specbound", measured(1.0, "a", "c")),
        Cell(1, 1, "specbound", measured(4.0, "a", "c")),
        Cell(0, 8, "specbound", measured(0.5, "a", "b")),
    ]
    result = LoadResult(cells)
    rows = {(row.num_clients, row.server): row for row in result.rows()}
    alone, eight = rows[1, "specbound"], rows[8, "specbound"]
    assert (alone.tokens_per_second, alone.lowest_tokens_per_second) == (12.5, 5.0)
    assert (alone.num_as_alone, alone.num_as_plain, alone.num_answers) == (4, 2, 4)
    assert (eight.num_as_alone, eight.num_as_plain) == (1, 2)
    assert result.ratios() == {1: {"plain": 2.0}}
    assert "2.00x plain" in ratio_lines(result.ratios())[0]
    assert len(table(result.rows()).rows) == 3
    assert math.isclose(alone.per_token_s, 0.1 / 9)


def test_a_server_that_does_not_start_is_named_by_its_last_line(tmp_path: Path) -> None:
    config = LoadConfig(out=str(tmp_path), servers=("plain",), clients=(1,), num_prompts=1, model="nothing/here")
    with started(["plain"], config, "nothing/here", 64) as servers:
        (server,) = servers
        with pytest.raises(ServerError, match=r"plain does not start: specbound: error: .*nothing/here"):
            server.wait(time.monotonic() + 300)
    assert server.process.poll() is not None


def test_a_child_ends_once_its_input_is_closed() -> None:
    command = [sys.executable, "-m", "specbound.bench.load.child", "http.server", "0"]
    pipe = subprocess.PIPE
    child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, env=source_environment())
    assert child.stdin is not None and child.stdout is not None
    assert child.poll() is None
    child.stdin.close()
    assert child.wait(60) == 0
    child.stdout.close()


def test_what_was_measured_is_kept_and_one_broken_server_stops_no_other(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured_at: list[str] = []

    def answers(address: str, asks: Any, num_clients: int, seconds: float) -> Measured:
        measured_at.append(address)
        if address == "transformers":
            raise ServerError("it broke off")
        return measured(1.0, *(ask["prompt"] for ask in asks))

    class Fake:
        def __init__(self, name: str) -> None:
            self.name = self.address = name

        def wait(self, until: float) -> None:
            pass

    class Started:
        def __init__(self, names: Any, *_: Any) -> None:
            self.servers = [Fake(name) for name in names]

        def __enter__(self) -> list[Fake]:
            return self.servers

        def __exit__(self, *_: Any) -> None:
            pass

    monkeypatch.setattr(stage, "measure", answers)
    monkeypatch.setattr(stage, "started", Started)
    (tmp_path / "p.jsonl").write_text('{"prompt": "the cat"}\n{"prompt": "a dog"}\n')
    settings: dict[str, Any] = {"out": str(tmp_path / "o"), "model": str(tiny_model_dir), "clients": (1, 2)}
    settings |= {"prompts": str(tmp_path / "p.jsonl"), "num_prompts": 2, "rounds": 1}
    config = LoadConfig(**settings, servers=("plain", "transformers"))
    result = stage.run_load(config, lambda line: None)
    assert [(cell.num_clients, cell.server) for cell in result.cells] == [(1, "plain"), (2, "plain")]
    assert result.notes == ["transformers: it broke off"] and not result.is_whole
    measured_at.clear()
    stage.run_load(config, lambda line: None)
    assert set(measured_at) == {"transformers"}  # the rest is kept
    with pytest.raises(InputError, match="max_new_tokens is 64 there and 32 here"):
        stage.run_load(LoadConfig(**settings, servers=("plain", "transformers"), max_new_tokens=32), lambda line: None)


def test_all_servers_get_one_models_weights_alike() -> None:
    config = LoadConfig(out="o", compression="bf16", clients=(8,))
    words = {name: words_of(name, config, "FOLDER", 300, 9) for name in SERVERS}
    assert words["specbound"] == [*words["plain"][:2], *(w for w in words["plain"][2:] if w != "--policy=plain")]
    assert "--compression=bf16" in words["plain"] and "--prefix-cache-mib=0" in words["plain"]
    batching = words["transformers_batching"]
    assert batching[: len(words["transformers"])] == words["transformers"]
    assert batching[batching.index("--cb-num-blocks") + 1] == "32"
    assert words["transformers"][-2:] == ["--dtype", "bfloat16"]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"clients": (32,)}, "clients"),
        ({"clients": ()}, "clients"),
        ({"servers": ("nobody",)}, "servers"),
        ({"compression": "nf4"}, "compression"),
        ({"minutes": 0.0}, "minutes"),
        ({"model": "x.gguf"}, "model"),
    ],
)
def test_senseless_settings_are_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        LoadConfig(out="o", **settings)
