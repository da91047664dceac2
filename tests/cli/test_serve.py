"""`specbound serve` as a process: it says where it is, ends by a signal, and names what is wrong in one line."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from specbound.cli.main import main
from specbound.serve.config import ServeConfig
from specbound_controller.errors import InputError
from tests.test_imports import source_environment


def started(*options: str) -> tuple[subprocess.Popen[str], str]:
    """A server and its address."""
    command = [sys.executable, "-m", "specbound", "serve", "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=source_environment())
    assert process.stderr is not None
    seen = ""
    for line in process.stderr:
        seen += line
        found = re.search(r"serving .* on (http://\S+)/v1", line)
        if found:
            return process, found[1]
    raise AssertionError(seen)


def test_a_signal_ends_it_once_what_runs_is_finished(chat_model_dir: Path) -> None:
    process, address = started("--model", str(chat_model_dir), "--policy", "plain", "--served-name", "m")
    try:
        body = {"model": "m", "prompt": "the cat", "max_tokens": 400, "temperature": 2.0, "stream": True, "seed": 1}
        request = urllib.request.Request(
            f"{address}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        response = urllib.request.urlopen(request, timeout=120)
        assert response.readline().startswith(b"data: ")
        process.send_signal(signal.SIGTERM)
        assert response.read().endswith(b"data: [DONE]\n\n")
        assert process.wait(60) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def test_a_port_that_is_taken_is_named_before_any_work(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", "--model", "nothing/here", "--port", str(port)]) == 2
    captured = capsys.readouterr()
    assert str(port) in captured.err and "free" in captured.err and len(captured.err.splitlines()) == 1


def test_a_key_file_without_a_key_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "key").write_text("\n")
    assert main(["serve", "--api-key-file", str(tmp_path / "key")]) == 2
    assert "api_key_file must hold a key" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: ServeConfig(port=70000), "port"),
        (lambda: ServeConfig(max_batch=0), "max_batch"),
        (lambda: ServeConfig(max_prompt_tokens=0), "max_prompt_tokens"),
        (lambda: ServeConfig(max_seconds=0), "max_seconds"),
        (lambda: ServeConfig(api_key="a", api_key_file="b"), "api_key"),
        (lambda: ServeConfig(policy="nobody"), "policy"),
    ],
)
def test_senseless_settings_are_named(make: Callable[[], ServeConfig], named: str) -> None:
    with pytest.raises(InputError, match=named):
        make()


def test_clients_see_no_path_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "my-model").mkdir()
    assert ServeConfig(model=str(tmp_path / "my-model")).name == "my-model"
    assert ServeConfig(model="OWNER/NAME").name == "OWNER/NAME" and ServeConfig().name == "demo"
