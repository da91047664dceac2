"""The JSON files of a log: what the run recorded (`manifest.json`) and what work costs there (`costs.json`).

Both are checked as they are read, and written whole or not at all. Knows no shard.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from math import inf, isfinite
from pathlib import Path
from typing import Any

import numpy as np

from specbound_controller.costs import CostTable, with_all_calls
from specbound_controller.draft_vocabulary import DraftVocabulary
from specbound_controller.errors import InputError
from specbound_controller.text_files import read_json

SCHEMA_VERSION = 3
READABLE_VERSIONS = (2, SCHEMA_VERSION)
"""Logs of schema 2 hold what chains need; draft trees need what 3 added."""
_NOT_IDENTITY = frozenset({"model", "prompts", "versions", "counts"})
_TUPLES = {"eos_token_ids": int, "exit_layers": int, "temperatures": float, "compressions": str}
"""Field -> kind of its entries."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a run recorded. Two runs are the same where all is equal but names, versions and counts."""

    model: str
    """What the user called the model."""
    model_fingerprint: str
    """Equal over all compression levels of one model."""
    num_layers: int
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    prompts: str
    """Where the prompts came from."""
    prompts_hash: str
    num_prompts: int
    shard_prompts: int
    """Prompts per shard."""
    exit_layers: tuple[int, ...]
    temperatures: tuple[float, ...]
    compressions: tuple[str, ...]
    max_new_tokens: int
    seed: int
    """Of sampling, of the roll-outs that are drawn, and of the decisions that costs are measured with."""
    sampling: Mapping[str, Any] = field(default_factory=lambda: {"do_sample": False})
    """Arguments of the decoder that choose the tokens; see `sampling_of` for those of one prompt."""
    exactness: Mapping[str, str] = field(default_factory=dict)
    """Compression level -> level of exactness of the steps; `token` where none is named."""
    rollout_rate: float = 0.0
    """Share of the wrong drafts that were followed."""
    rollout_width: int = 1
    """Longest draft whose rest was recorded."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Library -> version that the run began with."""
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Compression level -> prompts, positions, cut loops, EOS ends; set when the level is complete."""
    schema_version: int = SCHEMA_VERSION
    stores: Mapping[str, str] = field(default_factory=dict)
    """What draft trees draw from beside the text: `bigrams`, `own_text` -> sha256 of what lies in `stores/`."""
    is_chat: bool = False
    """Whether the prompts went through the tokenizer's chat template."""
    exits: str = ""
    """Name of the trained exits that were read, where their layers have one; empty: the model's own."""
    num_drafts: int = 1
    """Drafts of a step, from the first on, of which was recorded what the exits say: more than one where trained exits
    read the full model's verified state, which lies farther back at each."""
    draft_vocabulary: tuple[int, ...] | None = None
    """Token ids that the exits read and draft, ascending; None, also where a manifest does not say, is all. It comes
    last, since it is long."""

    def __post_init__(self) -> None:
        for name in (
            "num_layers",
            "vocab_size",
            "num_prompts",
            "shard_prompts",
            "max_new_tokens",
            "rollout_width",
            "num_drafts",
        ):
            value = getattr(self, name)
            if not _is_a(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer >= 1, got {value!r}")
        for name, kind in _TUPLES.items():
            for entry in getattr(self, name):
                if not _is_a(entry, kind):
                    raise ValueError(f"{name} must hold only {kind.__name__}, got {entry!r}")
        if not _is_a(self.rollout_rate, float) or not 0 <= self.rollout_rate <= 1:
            raise ValueError(f"rollout_rate must be a number in [0, 1], got {self.rollout_rate!r}")
        if not isinstance(self.exits, str) or (self.exits and self.draft_vocabulary is None):
            raise ValueError(f"exits must be a name, beside a draft_vocabulary, got {self.exits!r}")
        if not isinstance(self.is_chat, bool):
            raise ValueError(f"is_chat must be true or false, got {self.is_chat!r}")
        for name in ("sampling", "exactness", "versions", "counts", "stores"):
            if not isinstance(getattr(self, name), Mapping):
                raise ValueError(f"{name} must be an object, got {getattr(self, name)!r}")
        for token in self.draft_vocabulary or ():
            if not _is_a(token, int) or not 0 <= token < self.vocab_size:
                raise ValueError(f"draft_vocabulary must hold only token ids below {self.vocab_size}, got {token!r}")
        self.drafted_tokens()  # raises ValueError where they do not ascend

    def drafted_tokens(self) -> DraftVocabulary | None:
        """What the exits read; None is all tokens."""
        if self.draft_vocabulary is None:
            return None
        return DraftVocabulary(np.array(self.draft_vocabulary, dtype=np.int64), self.exits)

    @property
    def num_shards(self) -> int:
        """Shards per compression level."""
        return -(-self.num_prompts // self.shard_prompts)

    def exactness_of(self, compression: str) -> str:
        """Level of exactness at which a compression level was recorded."""
        return self.exactness.get(compression, "token")

    @property
    def sampling_temperature(self) -> float:
        """What divided the logits before sampling; 0 under greedy decoding."""
        return float(self.sampling.get("temperature", 1.0)) if self.sampling.get("do_sample") else 0.0

    def sampling_of(self, prompt_index: int) -> dict[str, Any]:
        """Arguments of the decoder with which a live run repeats a prompt: seeds count up from the first prompt's."""
        arguments = dict(self.sampling)
        return arguments | {"seed": arguments["seed"] + prompt_index} if "seed" in arguments else arguments


def identity(manifest: Manifest) -> dict[str, Any]:
    """The values that two equal runs share."""
    return {f.name: getattr(manifest, f.name) for f in fields(Manifest) if f.name not in _NOT_IDENTITY}


def read_manifest(root: Path) -> Manifest:
    """Raises InputError where there is none, or it is broken or of another schema version."""
    path = root / "manifest.json"
    if not path.exists():
        raise InputError(f"log must be a folder that specbound profile wrote, got {root} (no manifest.json)")
    values = _read_json(path)
    version = values.get("schema_version")
    if version not in READABLE_VERSIONS:
        known = " or ".join(map(str, READABLE_VERSIONS))
        raise InputError(f"{path}: schema_version must be {known}, got {version!r}; profile again")
    try:
        unknown = sorted(set(values) - {f.name for f in fields(Manifest)})
        if unknown:
            raise ValueError(f"unknown key {unknown[0]!r}")
        arguments: dict[str, Any] = {n: tuple(value) if n in _TUPLES else value for n, value in values.items()}
        if arguments.get("draft_vocabulary") is not None:
            arguments["draft_vocabulary"] = tuple(arguments["draft_vocabulary"])
        return Manifest(**arguments)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path} is not a manifest of schema {version}: {error}") from None


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Writes `manifest.json`."""
    _write_json(root / "manifest.json", asdict(manifest))


def read_costs(root: Path) -> dict[str, CostTable]:
    """Cost tables by compression level; empty where none was measured. Raises InputError where broken."""
    path = root / "costs.json"
    return read_cost_file(path) if path.exists() else {}


def read_cost_file(path: Path) -> dict[str, CostTable]:
    """Cost tables of a file by compression level. Raises InputError where it is missing or broken."""
    try:
        return {name: _cost_table(values) for name, values in _read_json(path).items()}
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not a cost table: {error}; delete it and measure again") from None


def write_costs(root: Path, tables: Mapping[str, CostTable]) -> None:
    """Writes `costs.json`."""
    write_cost_file(root / "costs.json", tables)


def write_cost_file(path: Path, tables: Mapping[str, CostTable]) -> None:
    """Writes cost tables to a file, whole or not at all."""
    _write_json(path, {name: asdict(costs) for name, costs in tables.items()})


def _cost_table(values: Any) -> CostTable:
    if not isinstance(values, dict) or not isinstance(values.get("coefficients"), dict):
        raise ValueError("every level must hold an object with coefficients")
    for name, seconds in values["coefficients"].items():
        if not _is_a(seconds, float) or seconds < 0 or not isfinite(seconds):
            raise ValueError(f"{name} must be a number >= 0, got {seconds!r}")
    table = CostTable(**{**values, "coefficients": with_all_calls(values["coefficients"])})
    kinds = {"compression": str, "machine": str, "held_out_error": float, "num_steps": int, "exactness": str}
    for name, kind in kinds.items():
        if not _is_a(getattr(table, name), kind):
            raise ValueError(f"{name} must be {kind.__name__}, got {getattr(table, name)!r}")
    if table.probe_s is not None and (not _is_a(table.probe_s, float) or not 0 < table.probe_s < inf):
        raise ValueError(f"probe_s must be a number above 0 or null, got {table.probe_s!r}")
    return table


def _is_a(value: object, kind: type) -> bool:
    """As JSON has it: an integer is a float, a truth value is neither."""
    return isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)


def _read_json(path: Path) -> dict[str, Any]:
    values = read_json(path)
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold a JSON object, got {type(values).__name__}")
    return values


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Says which file could not be written, and what to do; a full disk is no reason to begin anew."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error).strip().splitlines()[0]
        raise OSError(f"{path} could not be written: {reason}; once it can be, run the same command again") from error


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    try:
        with writing(path):
            partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
