"""A server under many requests of every kind, a fourth of them dropped in mid-stream: does its memory grow?

    python -m tests.serve.soak --requests 1000

Starts `specbound serve` as a process and prints what it holds (resident memory) as requests are answered. Linux.
"""

import argparse
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai

from tests.serve.running_server import asks, texts_of

CLIENTS = 8
DROPPED_EVERY = 4
LINES = 10
"""Of the table."""


def outcome_of(client: openai.OpenAI, number: int, ask: dict[str, Any]) -> str:
    """Sends one request: answered whole, dropped after the first piece (every fourth), or refused, such as a chat with
    a model without a template."""
    kind: Any = client.chat.completions if "messages" in ask else client.completions
    try:
        if number % DROPPED_EVERY:
            assert texts_of(client, ask)
            return "answered"
        with kind.create(**{**ask, "stream": True, "max_tokens": 400}) as stream:
            next(iter(stream))
        return "dropped"
    except openai.BadRequestError:
        return "refused"


def send_all(client: openai.OpenAI, all_asks: list[dict[str, Any]]) -> Counter[str]:
    """Sends requests of several clients at once; what came of them."""
    with ThreadPoolExecutor(CLIENTS) as threads:
        return Counter(threads.map(lambda numbered: outcome_of(client, *numbered), enumerate(all_asks)))


@contextmanager
def served(model: str) -> Iterator[tuple[int, openai.OpenAI]]:
    """A server of its own process, by its number, and a client of it."""
    command = [sys.executable, "-m", "specbound", "serve", "--model", model, "--port", "0", "--served-name", "tiny"]
    command += ["--prefix-cache-mib", "8"]  # soon full, so that what grows after that is something else
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            found = (re.search(r"serving .* on (http://\S+)", line) for line in process.stderr)
            address = next(each[1] for each in found if each is not None)
            yield process.pid, openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=600)
        finally:
            process.terminate()


def resident_mib(pid: int) -> float:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--model", default="demo")
    options = parser.parse_args()
    names = ("answered", "dropped", "refused")
    with served(options.model) as (pid, client):
        print(f"{'requests':>8} {' '.join(f'{name:>8}' for name in names)} {'resident MiB':>12}")
        all_asks, found = asks(options.requests), Counter[str]()
        size = max(1, options.requests // LINES)
        for start in range(-size, len(all_asks), size):
            found += send_all(client, all_asks[start : start + size]) if start >= 0 else Counter()
            counts = " ".join(f"{found[name]:8}" for name in names)
            print(f"{found.total():8} {counts} {resident_mib(pid):12.1f}", flush=True)


if __name__ == "__main__":
    main()
