"""Servers as processes: how each is started, when it is ready, how it ends. Knows no load."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import IO

import httpx

from specbound.bench.load.config import DTYPES, LoadConfig

HOST = "127.0.0.1"
BLOCK_TOKENS = 256
"""Of a block of transformers' paged cache."""
WAIT_SECONDS = 0.2


class ServerError(Exception):
    """A server that does not start, or does not answer; the message is one line."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that has been started."""

    name: str
    """One of `SERVERS`."""
    port: int
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    """What it has written to either stream."""

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.port}"

    def wait(self, until: float) -> None:
        """Returns once it answers. until: `time.monotonic()`. Raises ServerError where it ends, or takes longer."""
        while True:
            if self.process.poll() is not None:
                raise ServerError(f"{self.name} does not start: {self.last_line()}")
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.address}/health", timeout=5, trust_env=False).status_code == 200:
                    return
            if time.monotonic() > until:
                raise ServerError(f"{self.name} was not ready in time")
            time.sleep(WAIT_SECONDS)

    def last_line(self) -> str:
        """What it said at the end."""
        self.output.seek(0)
        lines = [line.strip() for line in self.output.read().decode(errors="replace").splitlines()]
        return next((line for line in reversed(lines) if line), "it said nothing")

    def end(self) -> None:
        """Ends it at once."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self.output.close()


@contextlib.contextmanager
def started(names: Sequence[str], config: LoadConfig, source: str, num_tokens: int) -> Iterator[list[Running]]:
    """Starts servers, all at once, and ends them.

    source: where transformers finds the model. num_tokens: of the longest prompt with its answer.
    """
    running: list[Running] = []
    try:
        for name in names:
            running.append(_start(name, config, source, num_tokens))
        yield running
    finally:
        for each in running:
            each.end()


def _start(name: str, config: LoadConfig, source: str, num_tokens: int) -> Running:
    port = _free_port()
    command = [sys.executable, "-m", "specbound.bench.load.child", *words_of(name, config, source, num_tokens, port)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(config.threads)}
    output = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `end`)
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, env=environment)
    return Running(name, port, process, output)


def words_of(name: str, config: LoadConfig, source: str, num_tokens: int, port: int) -> list[str]:
    """The module that serves, and its options."""
    if not name.startswith("transformers"):
        return ["specbound", "serve", *_options(config, port, name == "specbound")]
    words = ["transformers.cli.transformers", "serve", source, "--host", HOST, "--port", str(port)]
    words += ["--dtype", DTYPES[config.compression]]
    if name == "transformers":
        return words
    # twice the room that all answers together need; left to itself it takes most of the machine's memory
    num_blocks = 2 * max(config.clients) * -(-num_tokens // BLOCK_TOKENS)
    most_tokens = max(config.clients) * num_tokens
    return [
        *words,
        "--continuous-batching",
        "--cb-num-blocks",
        str(num_blocks),
        "--cb-max-batch-tokens",
        str(most_tokens),
    ]


def _options(config: LoadConfig, port: int, has_drafts: bool) -> list[str]:
    """Of `specbound serve`, those that are not its defaults."""
    serving = config.serving(port, has_drafts)
    values = {each.name: (getattr(serving, each.name), each.default) for each in fields(serving)}
    return [f"--{name.replace('_', '-')}={value}" for name, (value, default) in values.items() if value != default]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])
