"""The step log on disk: shards written whole or not at all, a manifest, resume, and reading shard by shard.

Layout of a log directory: `exits/LEVEL-NNNNN.parquet`, `positions/LEVEL-NNNNN.parquet` (LEVEL a compression level,
NNNNN a shard), `manifest.json`, `costs.json`. A shard counts as written when both its files stand. Knows no model.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from specbound_controller.costs import CostTable
from specbound_controller.errors import InputError
from specbound_profiling.tables import EXITS_SCHEMA, POSITIONS_SCHEMA, exits_table, positions_table, traces_of
from specbound_profiling.trace import PromptTrace

SCHEMA_VERSION = 1
_NOT_IDENTITY = frozenset({"model", "prompts", "versions", "counts"})


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
    sampling: Mapping[str, Any] = field(default_factory=lambda: {"method": "greedy"})
    exactness: str = "token"
    versions: Mapping[str, str] = field(default_factory=dict)
    """Library -> version that the run began with."""
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Compression level -> prompts, positions, cut loops, EOS ends; set when the level is complete."""
    schema_version: int = SCHEMA_VERSION

    @property
    def num_shards(self) -> int:
        """Shards per compression level."""
        return -(-self.num_prompts // self.shard_prompts)


class LogWriter:
    """Writes one run into a directory, and goes on where an earlier, equal run stopped."""

    def __init__(self, root: Path, manifest: Manifest, resume: bool = True) -> None:
        """Creates the directory and its manifest.

        Raises:
            InputError: the directory holds something that is not an unfinished or finished run of these settings.
        """
        self.root, self.manifest = root, manifest
        refuse_foreign(root, resume)
        if root.exists() and any(root.iterdir()):
            self.manifest = self._adopt()
        else:
            _make_directory(root)
            self._write_manifest()
        for folder in ("exits", "positions"):
            _make_directory(root / folder)
            for leftover in (root / folder).glob("*.partial"):
                leftover.unlink()

    def _adopt(self) -> Manifest:
        found = read_manifest(self.root)
        wanted, there = _identity(self.manifest), _identity(found)
        for name, value in wanted.items():
            if there[name] != value:
                raise InputError(
                    f"out holds another run: {name} is {_short(there[name])} there, {_short(value)} here "
                    f"({self.root}); choose another folder"
                )
        return found

    def is_written(self, compression: str, shard: int) -> bool:
        """Whether the shard stands whole."""
        return _is_written(self.root, compression, shard)

    def write_shard(self, compression: str, shard: int, traces: Sequence[PromptTrace]) -> None:
        """Writes a shard so that it is there whole or not at all."""
        for folder, table in (("exits", exits_table(traces)), ("positions", positions_table(traces))):
            path = _shard_path(self.root, folder, compression, shard)
            partial = path.with_suffix(".partial")
            try:
                pq.write_table(table, partial, compression="zstd", write_page_checksum=True)
                os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)

    def write_costs(self, compression: str, table: CostTable) -> None:
        """Adds a compression level's cost table to `costs.json`."""
        tables = read_costs(self.root) | {compression: table}
        _write_json(self.root / "costs.json", {name: asdict(costs) for name, costs in tables.items()})

    def write_counts(self, compression: str, counts: Mapping[str, int]) -> None:
        """Puts a finished level's counts into the manifest."""
        values = asdict(self.manifest) | {"counts": {**self.manifest.counts, compression: dict(counts)}}
        self.manifest = _manifest_of(values)
        self._write_manifest()

    def _write_manifest(self) -> None:
        _write_json(self.root / "manifest.json", asdict(self.manifest))


def refuse_foreign(root: Path, resume: bool) -> None:
    """Raises InputError where the folder holds something that no run may go on with."""
    if root.exists() and not root.is_dir():
        raise InputError(f"out must be a folder, got the file {root}")
    if not root.exists() or not any(root.iterdir()):
        return
    if not (root / "manifest.json").exists():
        raise InputError(f"out must be empty or hold a run of specbound profile, got {root}; choose another")
    if not resume:
        raise InputError(f"out must be empty where resume is off, got {root}; choose another")


@dataclass(frozen=True, slots=True)
class StepLog:
    """A finished log."""

    root: Path
    manifest: Manifest
    costs: dict[str, CostTable]
    """Compression level -> cost table of the machine that recorded it."""

    def iter_shards(self, compression: str) -> Iterator[list[PromptTrace]]:
        """The traces of each shard, so that memory does not grow with the number of prompts.

        Raises:
            InputError: the level was not recorded, or a file is missing or damaged (it is named).
        """
        if compression not in self.manifest.compressions:
            levels = ", ".join(self.manifest.compressions)
            raise InputError(f"compression must be one of the log's {levels}, got {compression!r} ({self.root})")
        for shard in range(self.manifest.num_shards):
            yield self._read_shard(compression, shard)

    def iter_traces(self, compression: str) -> Iterator[PromptTrace]:
        """The traces one by one, a shard in memory at a time."""
        for traces in self.iter_shards(compression):
            yield from traces

    def traces(self, compression: str) -> list[PromptTrace]:
        """All traces of a level, in the order of the prompts."""
        return list(self.iter_traces(compression))

    def _read_shard(self, compression: str, shard: int) -> list[PromptTrace]:
        paths = {folder: _shard_path(self.root, folder, compression, shard) for folder in ("exits", "positions")}
        manifest = self.manifest
        try:
            traces = list(
                traces_of(
                    _read_table(paths["exits"], EXITS_SCHEMA),
                    _read_table(paths["positions"], POSITIONS_SCHEMA),
                    manifest.exit_layers,
                    manifest.temperatures,
                    manifest.max_new_tokens,
                    manifest.eos_token_ids,
                )
            )
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{paths['exits']} does not fit its positions file: {error}") from error
        first = shard * manifest.shard_prompts
        expected = min(manifest.shard_prompts, manifest.num_prompts - first)
        if len(traces) != expected:
            raise InputError(f"{paths['positions']} must hold {expected} prompts, got {len(traces)}; profile again")
        return traces


def open_log(root: Path | str) -> StepLog:
    """Opens a finished log directory.

    Raises:
        InputError: no log there, a broken manifest or cost table, or a run that was not finished.
    """
    root = Path(root)
    manifest = read_manifest(root)
    missing = [
        (compression, shard)
        for compression in manifest.compressions
        for shard in range(manifest.num_shards)
        if not _is_written(root, compression, shard)
    ]
    if missing:
        total = manifest.num_shards * len(manifest.compressions)
        raise InputError(f"log {root} is not finished: {len(missing)} of {total} shards are missing; profile again")
    return StepLog(root, manifest, read_costs(root))


def read_manifest(root: Path) -> Manifest:
    """Raises InputError where there is none, or it is broken or of another schema version."""
    path = root / "manifest.json"
    if not path.exists():
        raise InputError(f"log must be a folder that specbound profile wrote, got {root} (no manifest.json)")
    values = _read_json(path)
    version = values.get("schema_version")
    if version != SCHEMA_VERSION:
        raise InputError(f"{path}: schema_version must be {SCHEMA_VERSION}, got {version!r}; profile again")
    try:
        return _manifest_of(values)
    except (TypeError, KeyError) as error:
        raise InputError(f"{path} is not a manifest of schema {SCHEMA_VERSION}: {error}") from None


def read_costs(root: Path) -> dict[str, CostTable]:
    """Cost tables by compression level; empty where none was measured. Raises InputError where broken."""
    path = root / "costs.json"
    if not path.exists():
        return {}
    try:
        return {name: CostTable(**values) for name, values in _read_json(path).items()}
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not a cost table: {error}") from None


def _manifest_of(values: Mapping[str, Any]) -> Manifest:
    tuples = {"eos_token_ids", "exit_layers", "temperatures", "compressions"}
    known = {f.name for f in fields(Manifest)}
    if set(values) - known:
        raise TypeError(f"unknown key {sorted(set(values) - known)[0]!r}")
    arguments: dict[str, Any] = {n: tuple(value) if n in tuples else value for n, value in values.items()}
    return Manifest(**arguments)


def _identity(manifest: Manifest) -> dict[str, Any]:
    return {f.name: getattr(manifest, f.name) for f in fields(Manifest) if f.name not in _NOT_IDENTITY}


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:12] + "..."


def _is_written(root: Path, compression: str, shard: int) -> bool:
    return all(_shard_path(root, folder, compression, shard).exists() for folder in ("exits", "positions"))


def _shard_path(root: Path, folder: str, compression: str, shard: int) -> Path:
    return root / folder / f"{compression}-{shard:05d}.parquet"


def _read_table(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read()
    except FileNotFoundError:
        raise InputError(f"{path} is missing; profile again") from None
    except (OSError, pa.ArrowException) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{path} is damaged: {reason}; delete it and profile again") from error
    if not table.schema.equals(schema):
        raise InputError(f"{path} must have the columns {', '.join(schema.names)}, got {', '.join(table.schema.names)}")
    return table


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out must be a folder that can be written, got {path} ({error.strerror})") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is damaged: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold a JSON object, got {type(values).__name__}")
    return values


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)
