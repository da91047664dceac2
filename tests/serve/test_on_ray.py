"""Replicas on Ray: answers are those of one model, and a replica that dies takes only its own requests with it."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from specbound.cli.main import main
from specbound.decoding.decoder import SpecBoundDecoder
from specbound.generation.generate import prepare
from specbound.serve.config import ServeConfig
from specbound_controller.errors import InputError
from tests.serve.running_server import until
from tests.test_imports import source_environment

pytest.importorskip("ray.serve", exc_type=ImportError)

from ray import serve
from ray.serve.schema import ProxyStatus, ServeStatus

from specbound.serve.on_ray import named_from_anywhere, require_no_other, require_room

PROMPTS = ("the cat", "the dog sat", "def return two", "and then")


def test_folders_are_named_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path)
    config = named_from_anywhere(ServeConfig(model="model", controller="demo"))
    assert config.model == str(tmp_path / "model") and config.name == "model"
    assert (config.controller, config.policy) == ("demo", "auto")
    assert named_from_anywhere(ServeConfig(policy="tree7")).policy == "tree7"


@pytest.mark.parametrize("settings", [{"replicas": 2}, {"engine": "ray", "replicas": 0}, {"engine": "rays"}])
def test_wrong_replicas_are_named(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"replicas|engine"):
        ServeConfig(**settings)


def test_a_cluster_without_room_is_refused_with_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specbound.serve.on_ray.ray.cluster_resources", lambda: {"CPU": 2.0})
    require_room(2, {"CPU": 1})
    with pytest.raises(InputError, match=r"replicas must be <= 2 where each takes 1 CPU of the cluster's 2 CPU, got 3"):
        require_room(3, {"CPU": 1})


def test_a_cluster_where_ray_serve_runs_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "status", lambda: ServeStatus(proxies={"node": ProxyStatus.HEALTHY}))
    with pytest.raises(InputError, match="`serve shutdown`"):
        require_no_other()


class Cluster:
    """`specbound serve --engine ray` with two replicas, as a process."""

    def __init__(self, model: Path) -> None:
        options = ["--policy", "plain", "--served-name", "m", "--port", "0", "--engine", "ray", "--replicas", "2"]
        command = [sys.executable, "-m", "specbound", "serve", "--model", str(model), *options]
        environment = {key: value for key, value in source_environment().items() if key != "RAY_ADDRESS"}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        assert self.process.stderr is not None
        found = (re.search(r"serving .* on (http://\S+)", line) for line in self.process.stderr)
        self.address = next(each[1] for each in found if each is not None)

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.address, api_key="none", max_retries=0, timeout=120)

    def replicas(self) -> list[int]:
        """Process numbers of the replicas: children of the children of the server's."""
        parents = {self.process.pid}
        parents |= {pid for pid in _processes() if _parent(pid) in parents}
        names = {pid: _name(pid) for pid in _processes() if _parent(pid) in parents}
        return [pid for pid, name in names.items() if name.startswith("ray::ServeReplica")]

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(120) == 0
        assert self.process.stderr is not None
        self.process.stderr.close()


def _processes() -> list[int]:
    return [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()]


def _parent(pid: int) -> int:
    return int(_text(pid, "stat").rpartition(")")[2].split()[1] or 0) if _text(pid, "stat") else 0


def _name(pid: int) -> str:
    return _text(pid, "cmdline").replace("\0", " ")


def _text(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:  # it has ended
        return ""


@pytest.fixture(scope="module")
def cluster(chat_model_dir: Path) -> Iterator[Cluster]:
    found = Cluster(chat_model_dir)
    yield found
    found.stop()


def alone(model: Path, prompt: str, count: int) -> str:
    """The text that the decoder gives by itself."""
    loaded = prepare(ServeConfig(model=str(model), policy="plain").generation()).loaded
    ids = loaded.tokenizer(prompt, return_tensors="pt")["input_ids"]
    tokens = SpecBoundDecoder(loaded.model).decode(ids, max_new_tokens=count).sequences[0, ids.shape[1] :]
    return str(loaded.tokenizer.decode(tokens, skip_special_tokens=True))


@pytest.mark.slow
def test_replicas_answer_as_one_model_does(cluster: Cluster, chat_model_dir: Path) -> None:
    client, prompts = cluster.client(), PROMPTS * 4
    assert len(cluster.replicas()) == 2

    def text(prompt: str) -> str:
        return client.completions.create(model="m", prompt=prompt, temperature=0, max_tokens=12).choices[0].text

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(text, prompts))
    expected = {prompt: alone(chat_model_dir, prompt, 12) for prompt in PROMPTS}
    assert found == [expected[prompt] for prompt in prompts]
    with pytest.raises(openai.BadRequestError, match="takes 512"):
        client.completions.create(model="m", prompt=[5] * 600)


@pytest.mark.slow
def test_a_killed_replica_fails_its_own_requests_and_is_replaced(cluster: Cluster) -> None:
    client = cluster.client()
    ask: dict[str, Any] = {"model": "m", "prompt": "the", "max_tokens": 500, "temperature": 2.0, "n": 4}
    streams = [client.completions.create(**ask, seed=seed, stream=True) for seed in range(6)]
    readers = [iter(stream) for stream in streams]
    assert all(next(reader).choices for reader in readers)
    killed = cluster.replicas()[0]
    os.kill(killed, signal.SIGKILL)

    def is_whole(reader: Any) -> bool:
        """Whether a stream ends as it should; False for one that breaks with an error."""
        try:
            ends = [choice for chunk in reader for choice in chunk.choices if choice.finish_reason is not None]
        except openai.APIConnectionError:
            return False
        assert len(ends) == 4
        return True

    started = time.monotonic()
    with ThreadPoolExecutor(6) as threads:
        whole = list(threads.map(is_whole, readers))
    assert time.monotonic() - started < 60 and any(whole) and not all(whole)
    for prompt in PROMPTS * 2:
        assert client.completions.create(model="m", prompt=prompt, max_tokens=4).choices
    until(lambda: len(cluster.replicas()) == 2 and killed not in cluster.replicas(), 90)


@pytest.mark.slow
def test_what_a_replica_says_of_the_config_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--engine", "ray", "--port", "0", "--model", str(tmp_path), "--policy", "plain"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
