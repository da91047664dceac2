"""Text that a model writes itself: answers in batches, a shard each, and counts over all of them.

A run that is killed goes on at the first shard that is missing and ends with the same files: which prompts share a
batch, and the seed of each, depend on the settings alone.
"""

import json
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from specbound.decoding.greedy_twin import greedy_twin
from specbound.decoding.model.adapter import ModelAdapter
from specbound.models.fingerprint import model_fingerprint
from specbound.models.loading import LoadedModel, load_model
from specbound.results.files import make_folder, write_whole
from specbound.stores.bigrams import local_bigrams
from specbound.stores.own_text import save_own_text
from specbound.stores.rates import Answer, counted_rates
from specbound.stores.text import TEXT_FOLDER, shard_rows, text_rows
from specbound.stores.write_config import WriteConfig
from specbound_controller.errors import InputError
from specbound_controller.sources.own_text import OwnText
from specbound_controller.text_files import read_json
from specbound_profiling.prompts.files import load_prompts, prompts_hash
from specbound_profiling.prompts.tokenization import tokenize_prompts

MANIFEST_FILE = "manifest.json"
COUNTS_FOLDER = "own_text"
SCHEMA = 1
SORTED_BATCHES = 8
"""Prompts of so many batches are sorted by length, so that those of one batch are padded little."""
FREE_SETTINGS = ("out", "model", "num_tokens", "most_bytes", "threads", "json")
"""Settings that a run which goes on may change; that it is the same model its fingerprint says."""

# B answers of a batch, T tokens of the longest prompt


@dataclass(frozen=True, slots=True)
class Written:
    """What a run has left."""

    out: str
    num_shards: int
    num_tokens: int
    """Written tokens in all shards, end tokens included."""
    num_contexts: int
    """Contexts that the counts hold."""
    num_bytes: int
    """Of the counts."""
    seconds: float
    """Of this run; shards of an earlier one cost nothing."""
    num_new_tokens: int
    """Written in this run."""

    def __str__(self) -> str:
        speed = f", {self.num_new_tokens / self.seconds:.0f} tokens/s" if self.num_new_tokens else ""
        return (
            f"{self.num_tokens} tokens in {self.num_shards} shards{speed}; counts of {self.num_contexts} contexts, "
            f"{self.num_bytes / 1e6:.1f} MB: {self.out}/{COUNTS_FOLDER}"
        )


@dataclass(frozen=True, slots=True)
class TextRun:
    """Text that stands in a folder, and what wrote it."""

    folder: Path
    loaded: LoadedModel
    fingerprint: str
    prompt_ids: Mapping[str, Sequence[int]]
    """Prompt -> its token ids."""
    num_shards: int
    num_tokens: int
    num_new_tokens: int
    seconds: float


def write(config: WriteConfig, say: Callable[[str], None] = lambda line: None) -> Written:
    """Writes text until there are `num_tokens` tokens of it, then counts it.

    Raises:
        InputError: prompts that things are evaluated on, a folder of another run, a disk that is full.
    """
    started = time.perf_counter()
    run = write_text(config, say)
    store = OwnText.count(read_text(run.folder), config.most_bytes)
    bigrams = local_bigrams(run.loaded.model, say)
    rates = counted_rates(read_answers(run.folder, run.prompt_ids), bigrams, config.most_bytes)
    facts = {"model_fingerprint": run.fingerprint, "num_tokens": run.num_tokens, "rates": rates}
    save_own_text(run.folder / COUNTS_FOLDER, store, facts)
    return Written(
        str(run.folder),
        run.num_shards,
        run.num_tokens,
        len(store),
        store.num_bytes,
        time.perf_counter() - started,
        run.num_new_tokens,
    )


def write_text(config: WriteConfig, say: Callable[[str], None] = lambda line: None) -> TextRun:
    """The first half: writes the shards that are missing. Raises as `write`."""
    started = time.perf_counter()
    if config.prompts == "demo:evaluate" or config.prompts.endswith(":evaluation"):
        raise InputError(f"prompts must be none that anything is evaluated on, got {config.prompts}")
    prompts = load_prompts(config.prompts)
    folder = make_folder(config.out)
    loaded = load_model(config.model, config.compression)
    fingerprint = model_fingerprint(loaded.model)
    _claim(folder, config, {"prompts_hash": prompts_hash(prompts), "model_fingerprint": fingerprint})
    adapter = ModelAdapter(loaded.model)
    all_ids = [ids[0] for ids in tokenize_prompts(prompts, loaded, adapter, config.max_new_tokens, config.raw)]
    writer = _Writer(greedy_twin(loaded.model), loaded, config)
    num_tokens = num_new = num_shards = 0
    for number, (batch, is_sampled) in enumerate(batches([len(ids) for ids in all_ids], config)):
        if num_tokens >= config.num_tokens:
            break
        path = folder / TEXT_FOLDER / f"{number:05d}.parquet"
        if not path.exists():
            answers = writer.answer([all_ids[index] for index in batch], number if is_sampled else None)
            _write_shard(path, [prompts[index].prompt_id for index in batch], answers, is_sampled)
            num_new += sum(map(len, answers))
        num_tokens += sum(map(len, read_shard(path)))
        num_shards += 1
        say(_progress(num_tokens, num_new, config.num_tokens, time.perf_counter() - started))
    ids_of = {prompt.prompt_id: ids.tolist() for prompt, ids in zip(prompts, all_ids, strict=True)}
    seconds = time.perf_counter() - started
    return TextRun(folder, loaded, fingerprint, ids_of, num_shards, num_tokens, num_new, seconds)


def batches(lengths: Sequence[int], config: WriteConfig) -> Iterator[tuple[list[int], bool]]:
    """Prompts of each batch, and whether it is sampled: all prompts greedily, then sampled, in new orders, for ever."""
    number_of_pass = 0
    while True:
        order = list(range(len(lengths)))
        random.Random(f"{config.seed} {number_of_pass}").shuffle(order)
        window = SORTED_BATCHES * config.batch
        for first in range(0, len(order), window):
            near = sorted(order[first : first + window], key=lambda index: (lengths[index], index))
            for start in range(0, len(near), config.batch):
                yield near[start : start + config.batch], number_of_pass > 0
        number_of_pass += 1


def read_text(folder: Path) -> Iterator[list[int]]:
    """Every answer of a run, in the order in which they were written."""
    return (tokens for _, tokens in text_rows(folder))


def read_answers(folder: Path, ids_of: Mapping[str, Sequence[int]]) -> list[Answer]:
    """The same with their prompts. ids_of: prompt id -> ids"""
    return [Answer(prompt_id, ids_of[prompt_id], tokens) for prompt_id, tokens in text_rows(folder)]


def read_shard(path: Path) -> list[list[int]]:
    """Answers of one shard. Raises InputError where it is damaged."""
    return [tokens for _, tokens in shard_rows(path)]


class _Writer:
    """Answers batches with transformers' own generation, which pads on the left."""

    def __init__(self, model: Any, loaded: LoadedModel, config: WriteConfig) -> None:
        self.model, self.config = model, config
        ends = loaded.model.generation_config.eos_token_id
        self.ends = [ends] if isinstance(ends, int) else list(ends or ())
        padding = loaded.tokenizer.pad_token_id
        self.padding: int = padding if padding is not None else (self.ends or [0])[0]

    @torch.inference_mode()
    def answer(self, prompts: Sequence[Tensor], seed: int | None) -> list[list[int]]:
        """New tokens of each prompt, its end token included. seed: of sampling; None is greedy."""
        longest = max(len(ids) for ids in prompts)
        device = self.model.get_input_embeddings().weight.device
        input_ids = torch.full((len(prompts), longest), self.padding, device=device)
        mask = torch.zeros_like(input_ids)
        for row, ids in enumerate(prompts):
            input_ids[row, longest - len(ids) :] = ids.to(device)
            mask[row, longest - len(ids) :] = 1
        settings: dict[str, Any] = {"do_sample": False}
        if seed is not None:
            settings = {"do_sample": True, "temperature": self.config.temperature, "top_k": 0, "top_p": 1.0}
        with torch.random.fork_rng(enabled=seed is not None):
            if seed is not None:
                torch.manual_seed((self.config.seed * 1_000_003 + seed) % 2**63)
            output = self.model.generate(
                input_ids,
                attention_mask=mask,
                max_new_tokens=self.config.max_new_tokens,
                pad_token_id=self.padding,
                **settings,
            )
        return [self._until_end(row) for row in output[:, longest:].tolist()]

    def _until_end(self, tokens: list[int]) -> list[int]:
        end = next((place for place, token in enumerate(tokens) if token in self.ends), len(tokens) - 1)
        return tokens[: end + 1]


def _write_shard(path: Path, prompt_ids: Sequence[str], answers: Sequence[list[int]], is_sampled: bool) -> None:
    columns = {
        "prompt_id": pa.array(prompt_ids),
        "tokens": pa.array(answers, pa.list_(pa.int32())),
        "is_sampled": pa.array([is_sampled] * len(answers)),
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, compression="zstd")
    try:
        path.parent.mkdir(exist_ok=True)
        write_whole(path, sink.getvalue().to_pybytes())
    except OSError as error:
        raise InputError(f"text cannot be written to {path.parent}: {error.strerror}") from None


def _claim(folder: Path, config: WriteConfig, facts: dict[str, str]) -> None:
    """Begins a run, or goes on with one of the same settings."""
    settings = {name: value for name, value in asdict(config).items() if name not in FREE_SETTINGS}
    wanted = {"schema": SCHEMA, **settings, **facts}
    path = folder / MANIFEST_FILE
    if not path.exists():
        if any(folder.iterdir()):
            raise InputError(
                f"out must be a new folder or one of specbound write, got {folder}, which holds other files"
            )
        write_whole(path, (json.dumps(wanted, indent=2) + "\n").encode())
        return
    try:
        held = read_json(path)
    except InputError as error:
        raise InputError(f"{error}: give another --out") from None
    for name, value in wanted.items():
        if not isinstance(held, dict) or held.get(name) != value:
            found = held.get(name) if isinstance(held, dict) else held
            raise InputError(f"{name} must be {found!r} to go on with {folder}, got {value!r}: give another --out")
    shutil.rmtree(folder / COUNTS_FOLDER, ignore_errors=True)  # of fewer tokens


def _progress(num_tokens: int, num_new: int, wanted: int, seconds: float) -> str:
    line = f"{min(num_tokens, wanted)}/{wanted} tokens"
    if num_new == 0:
        return f"{line}, written before"
    left = max(0, wanted - num_tokens) * seconds / num_new
    return f"{line}, {num_new / seconds:.0f} tokens/s, {left / 60:.0f} minutes left"
