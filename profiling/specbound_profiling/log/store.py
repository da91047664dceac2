"""The step log on disk: shards written whole or not at all, resume, and reading shard by shard.

Layout of a log directory: `exits/LEVEL-NNNNN.parquet`, `branches/LEVEL-NNNNN.parquet`, `positions/LEVEL-NNNNN.parquet`
(LEVEL a compression level, NNNNN a shard), the same in `later/` where exits say something else of a step's later
drafts, `manifest.json`, `costs.json`, and where live steps were asked for `steps/LEVEL-POLICY.parquet`. A shard counts
as written when all its files stand. Knows no model.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from specbound_controller.costs import CostTable
from specbound_controller.errors import InputError
from specbound_controller.sources.stores import Stores
from specbound_controller.trees.rates import usable_rates
from specbound_controller.trees.settings import TreeSources
from specbound_profiling.log.later import Later
from specbound_profiling.log.later_tables import LATER_SCHEMA, later_by_prompt, later_table
from specbound_profiling.log.live_steps import STEPS_SCHEMA, LiveSteps, live_steps_of, steps_table
from specbound_profiling.log.manifest import (
    Manifest,
    identity,
    read_costs,
    read_manifest,
    write_costs,
    write_manifest,
    writing,
)
from specbound_profiling.log.stores import read_log_stores
from specbound_profiling.log.tables import (
    BRANCHES_SCHEMA,
    branches_table,
    exits_schema,
    exits_table,
    positions_schema,
    positions_table,
    traces_of,
)
from specbound_profiling.log.trace import PromptTrace

_HASHES = ("prompts_hash", "model_fingerprint")
"""What is named only where nothing says more: two hashes tell a reader nothing."""
LATER = "later"


def folders_of(manifest: Manifest) -> tuple[str, ...]:
    """Of the shards."""
    return ("exits", "branches", "positions", *((LATER,) if manifest.num_drafts > 1 else ()))


class LogWriter:
    """Writes one run into a directory, and goes on where an earlier, equal run stopped."""

    def __init__(self, root: Path, manifest: Manifest, resume: bool = True) -> None:
        """Creates the directory and its manifest.

        Raises:
            InputError: the directory holds something that is not an unfinished or finished run of these settings.
        """
        self.root, self.manifest = root, manifest
        refuse_foreign(root, resume)
        if _holds_anything(root):
            self.manifest = self._adopt()
        else:
            _make_directory(root)
            write_manifest(root, self.manifest)
        for folder in folders_of(self.manifest):
            _make_directory(root / folder)
            for leftover in (root / folder).glob("*.partial"):
                leftover.unlink()

    def _adopt(self) -> Manifest:
        found = read_manifest(self.root)
        wanted, there = identity(self.manifest), identity(found)
        for name, value in sorted(wanted.items(), key=lambda item: item[0] in _HASHES):
            if there[name] != value:
                raise InputError(
                    f"out holds another run: {name} is {_short(there[name])} there, {_short(value)} here "
                    f"({self.root}); choose another folder"
                )
        return found

    def is_written(self, compression: str, shard: int) -> bool:
        """Whether the shard stands whole."""
        return _is_written(self.root, self.manifest, compression, shard)

    def write_shard(self, compression: str, shard: int, traces: Sequence[PromptTrace]) -> None:
        """Writes a shard so that it is there whole or not at all: a shard without all its files counts as missing."""
        rows = {"exits": exits_table, "branches": branches_table, "positions": positions_table, LATER: later_table}
        tables = {folder: rows[folder](traces) for folder in folders_of(self.manifest)}
        paths = {folder: _shard_path(self.root, folder, compression, shard) for folder in tables}
        _write_tables({paths[folder]: table for folder, table in tables.items()})

    def write_costs(self, compression: str, table: CostTable) -> None:
        """Puts a compression level's cost table into `costs.json`."""
        write_costs(self.root, read_costs(self.root) | {compression: table})

    def write_counts(self, compression: str, counts: Mapping[str, int]) -> None:
        """Puts a finished level's counts into the manifest."""
        self.manifest = replace(self.manifest, counts={**self.manifest.counts, compression: dict(counts)})
        write_manifest(self.root, self.manifest)


def refuse_foreign(root: Path, resume: bool) -> None:
    """Raises InputError where the folder holds something that no run may go on with."""
    if root.exists() and not root.is_dir():
        raise InputError(f"out must be a folder, got the file {root}")
    if not _holds_anything(root):
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

    def stores(self) -> tuple[Stores, dict[str, list[float]]]:
        """What draft trees draw from beside the text, and the rates that were counted with it.

        Raises InputError where it is not what was recorded.
        """
        return read_log_stores(self.root, self.manifest.stores, self.manifest.model_fingerprint)

    def tree_sources(self) -> TreeSources:
        """The same with a rate for every cell: those that were counted, of other sources priors."""
        stores, counted = self.stores()
        return TreeSources(stores, usable_rates(stores, counted))

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

    def traces(self, compression: str) -> list[PromptTrace]:
        """All traces of a level, in the order of the prompts."""
        return [trace for traces in self.iter_shards(compression) for trace in traces]

    def write_live_steps(self, compression: str, policy: str, runs: Sequence[LiveSteps]) -> None:
        """Keeps the live steps of a policy at a level, in place of those that were kept of it before."""
        _make_directory(self.root / "steps")
        _write_tables({self.root / "steps" / f"{compression}-{policy}.parquet": steps_table(runs)})

    def live_steps(self, compression: str) -> dict[str, list[LiveSteps]]:
        """Policy -> the live steps that were kept of it at a level, prompt by prompt; empty where none were.

        Raises:
            InputError: a file is damaged (it is named).
        """
        found = {}
        for path in sorted((self.root / "steps").glob(f"{compression}-*.parquet")):
            table = _read_table(path, STEPS_SCHEMA, "replay with --live and --save-steps")
            try:
                runs = list(live_steps_of(table))
            except (TypeError, ValueError) as error:
                raise InputError(f"{path} is not a file of live steps: {error}; delete it") from error
            found[path.stem.removeprefix(f"{compression}-")] = runs
        return found

    def _read_shard(self, compression: str, shard: int) -> list[PromptTrace]:
        manifest = self.manifest
        paths = {folder: _shard_path(self.root, folder, compression, shard) for folder in folders_of(manifest)}
        try:
            traces = list(
                traces_of(
                    _read_table(paths["exits"], exits_schema(manifest.schema_version)),
                    _read_table(paths["positions"], positions_schema(manifest.schema_version)),
                    _read_table(paths["branches"], BRANCHES_SCHEMA),
                    manifest.exit_layers,
                    manifest.temperatures,
                    manifest.max_new_tokens,
                    manifest.eos_token_ids,
                    self._later(paths.get(LATER)),
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
        seeds = [manifest.sampling_of(first + index).get("seed") for index in range(expected)]
        temperature = manifest.sampling_temperature
        return [
            replace(trace, seed=seed, sampling_temperature=temperature)
            for trace, seed in zip(traces, seeds, strict=True)
        ]

    def _later(self, path: Path | None) -> dict[str, tuple[Later, ...]]:
        """What exits say of later drafts; nothing where that was not recorded."""
        manifest = self.manifest
        if path is None:
            return {}
        return later_by_prompt(_read_table(path, LATER_SCHEMA), manifest.exit_layers, manifest.num_drafts - 1)


def open_log(root: Path | str) -> StepLog:
    """Opens a finished log directory.

    Raises:
        InputError: no log there, a broken manifest or cost table, or a run that was not finished.
    """
    root = Path(root).expanduser()
    manifest = read_manifest(root)
    missing = [
        (compression, shard)
        for compression in manifest.compressions
        for shard in range(manifest.num_shards)
        if not _is_written(root, manifest, compression, shard)
    ]
    if missing:
        total = manifest.num_shards * len(manifest.compressions)
        raise InputError(f"log {root} is not finished: {len(missing)} of {total} shards are missing; profile again")
    return StepLog(root, manifest, read_costs(root))


def _holds_anything(root: Path) -> bool:
    """Whether more stands there than what a killed run had begun to write."""
    return root.exists() and any(path.suffix != ".partial" for path in root.iterdir())


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:12] + "..."


def _is_written(root: Path, manifest: Manifest, compression: str, shard: int) -> bool:
    return all(_shard_path(root, folder, compression, shard).exists() for folder in folders_of(manifest))


def _shard_path(root: Path, folder: str, compression: str, shard: int) -> Path:
    return root / folder / f"{compression}-{shard:05d}.parquet"


def _write_tables(tables: Mapping[Path, pa.Table]) -> None:
    """Writes files beside their places and then renames them, so that none of them is ever half there."""
    partials = {path: path.with_suffix(".partial") for path in tables}
    try:
        for path, table in tables.items():
            with writing(path):
                pq.write_table(table, partials[path], compression="zstd", write_page_checksum=True)
        for path, partial in partials.items():
            with writing(path):
                os.replace(partial, path)
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)


def _read_table(path: Path, schema: pa.Schema, remedy: str = "profile") -> pa.Table:
    """remedy: what writes the file again."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read()
    except FileNotFoundError:
        raise InputError(f"{path} is missing; {remedy} again") from None
    except (OSError, pa.ArrowException) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{path} is damaged: {reason}; delete it and {remedy} again") from error
    if not table.schema.equals(schema):
        raise InputError(f"{path} must have the columns {', '.join(schema.names)}, got {', '.join(table.schema.names)}")
    return table


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out must be a folder that can be written, got {path} ({error.strerror})") from None
