"""Every server at every number of clients, in turn, from where an earlier call stopped. Knows no command line."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from specbound.bench.load.client import Answer, Measured, bodies, measure
from specbound.bench.load.config import LoadConfig
from specbound.bench.load.result import Cell, LoadResult
from specbound.bench.load.servers import Running, ServerError, started
from specbound.models.loading import load_tokenizer, model_source
from specbound.results.files import make_folder, write_file
from specbound.results.plan import keep_plan, read_kept
from specbound.results.report import machine_info
from specbound_controller.errors import InputError
from specbound_profiling.prompts.files import load_prompts, prompts_hash

Say = Callable[[str], None]
Key = tuple[int, int, str]
"""Round, clients, server."""
FREE = ("out", "json", "minutes", "rounds", "prompts")
"""Settings that may change from one call to the next; prompts count by their hash."""
WARM_UP_TOKENS = 4
CHAT_TOKENS = 64
"""More than a chat template adds to one message."""


def run_load(config: LoadConfig, say: Say) -> LoadResult:
    """Measures what is missing, as far as the minutes go.

    Raises:
        InputError: bad input, or a folder that holds a run of other settings.
    """
    ends = time.monotonic() + 60 * config.minutes
    prompts = load_prompts(config.prompts, config.num_prompts)
    if len(prompts) < max(config.clients):
        raise InputError(f"prompts must hold one for each of {max(config.clients)} clients, got {len(prompts)}")
    folder = make_folder(config.out)
    settings = {name: value for name, value in asdict(config).items() if name not in FREE}
    keep_plan(folder, {**settings, "prompts_hash": prompts_hash(prompts), "machine": machine_info()["name"]})
    result = LoadResult()
    missing = [key for key in _keys(config) if not _path(folder, key).exists()]
    if missing:
        texts = [prompt.text for prompt in prompts]
        _Run(config, folder, texts, ends, say, result.notes).measure(missing)
    kept = [key for key in _keys(config) if _path(folder, key).exists()]
    result.cells = [_read(_path(folder, key), key) for key in kept]
    result.is_whole = len(kept) == len(_keys(config))
    return result


def _keys(config: LoadConfig) -> list[Key]:
    """In the order of measuring: the servers take turns, and who begins changes."""
    keys: list[Key] = []
    for round_ in range(config.rounds):
        for index, num_clients in enumerate(config.clients):
            first = (round_ + index) % len(config.servers)
            keys += [(round_, num_clients, name) for name in (*config.servers[first:], *config.servers[:first])]
    return keys


class _Run:
    """One call's measuring."""

    def __init__(
        self, config: LoadConfig, folder: Path, texts: Sequence[str], ends: float, say: Say, notes: list[str]
    ) -> None:
        self._config, self._folder, self._ends = config, folder, ends
        self._say, self._notes = say, notes
        self._source = model_source(config.model)
        tokenizer = load_tokenizer(config.model)
        self._is_chat = tokenizer.chat_template is not None and not config.raw
        self._texts = texts
        longest = max(len(tokenizer(text)["input_ids"]) for text in texts)
        self._num_tokens = longest + config.max_new_tokens + (CHAT_TOKENS if self._is_chat else 0)

    def measure(self, missing: Sequence[Key]) -> None:
        """Writes one file for each measurement."""
        names = [name for name in self._config.servers if name in {key[2] for key in missing}]
        with started(names, self._config, self._source, self._num_tokens) as servers:
            ready = {server.name: server for server in servers if self._is_ready(server)}
            for key in missing:
                if key[2] not in ready:
                    continue
                left = self._ends - time.monotonic()
                if left <= 0:
                    break
                self._say(f"round {key[0] + 1}: {key[1]} clients at {key[2]}")
                try:
                    found = measure(ready[key[2]].address, self._asks(key[2]), key[1], left)
                except TimeoutError:
                    break
                except ServerError as error:
                    self._drop(key[2], error)
                    del ready[key[2]]
                    continue
                _write(_path(self._folder, key), found)
        if time.monotonic() >= self._ends:
            self._notes.append(f"{self._config.minutes:g} minutes were over; the same command measures what is missing")

    def _is_ready(self, server: Running) -> bool:
        """Waits for a server, and lets it decode something."""
        self._say(f"waiting for {server.name}")
        asks = [{**ask, "max_tokens": WARM_UP_TOKENS} for ask in self._asks(server.name)]
        try:
            server.wait(self._ends)
            measure(server.address, asks, max(self._config.clients), max(0.0, self._ends - time.monotonic()))
        except TimeoutError:
            self._drop(server.name, ServerError("it was not ready in time"))
            return False
        except ServerError as error:
            self._drop(server.name, error)
            return False
        return True

    def _drop(self, name: str, error: ServerError) -> None:
        self._notes.append(f"{name}: {error}")
        self._say(self._notes[-1])

    def _asks(self, server: str) -> list[dict[str, Any]]:
        model = self._source if server.startswith("transformers") else self._config.model
        return bodies(self._texts, model, self._config.max_new_tokens, self._is_chat)


def _path(folder: Path, key: Key) -> Path:
    return folder / f"round-{key[0] + 1:02d}-clients-{key[1]:03d}-{key[2]}.json"


def _write(path: Path, measured: Measured) -> None:
    write_file(path, json.dumps(asdict(measured)).encode())


def _read(path: Path, key: Key) -> Cell:
    """Raises InputError where the file is damaged."""
    kept = read_kept(path)
    try:
        measured = Measured(kept["seconds"], [Answer(**answer) for answer in kept["answers"]])
    except (TypeError, KeyError) as error:
        raise InputError(f"{path} is damaged: {error}; delete it, and the same command measures it again") from error
    return Cell(*key, measured)
