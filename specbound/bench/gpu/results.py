"""The results of a run: written after every part, as JSON for machines and as Markdown for the documentation.

One folder holds one run, so that a second call can go on where the first ended. Imports no torch.
"""

import functools
import hashlib
import json
import math
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from specbound.bench.gpu.finding import Cell, Finding, Table
from specbound.bench.gpu.stages import STAGES
from specbound.results.files import write_whole
from specbound.results.report import without_nan
from specbound_controller.errors import InputError

SCHEMA = 1
JSON_NAME, MARKDOWN_NAME, LOG_NAME = "results.json", "results.md", "log.txt"
MOST_FILES, MOST_FILE_BYTES = 8, 16_000_000
"""What may be brought back from a machine."""
BEGUN, FINISHED, FAILED = "begun", "finished", "failed"
"""Of a part. One that stays begun was stopped: by its time, or together with its process."""
ROOT = Path(__file__).resolve().parents[3]
"""The checkout."""


class Results:
    """The entries of all parts that were begun, by stage and part."""

    def __init__(self, folder: Path, is_dry: bool = False) -> None:
        """Reads what the folder holds. Raises InputError where that is no result of this command, or of a dry run."""
        self.folder, self.is_dry = folder, is_dry
        self.machine: dict[str, Any] = {}
        self.entries: dict[str, dict[str, dict[str, Any]]] = {}
        path = folder / JSON_NAME
        if not path.exists():
            return
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            if held["schema"] != SCHEMA:
                raise ValueError(f"schema {held['schema']}")
            self.machine, self.entries, was_dry = held["machine"], held["stages"], held["is_dry"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is no result of this command ({error}): name another folder") from None
        if was_dry != is_dry:
            raise InputError(f"out must not mix dry runs with others, got {folder}: name another folder")

    def forget(self, stages: Iterable[str]) -> None:
        """Drops what these stages found."""
        dropped = set(stages)
        self.entries = {name: parts for name, parts in self.entries.items() if name not in dropped}
        self.write()

    def status(self, stage: str, part: str) -> str | None:
        """None where it was never begun."""
        entry = self.entries.get(stage, {}).get(part)
        return None if entry is None else str(entry["status"])

    def failed_since(self, stage: str, moment: str) -> set[str]:
        """Parts that have failed, or were stopped, in the call that began then. moment: as `now` gives it."""
        parts = self.entries.get(stage, {})
        return {name for name, each in parts.items() if each["status"] != FINISHED and str(each["date"]) >= moment}

    def begin(self, stage: str, part: str) -> None:
        """A part begins."""
        self._put(stage, part, {"status": BEGUN})

    def finish(self, stage: str, part: str, finding: Finding, seconds: float) -> None:
        """A part came to its end."""
        found = asdict(finding)
        failure = found.pop("failure")
        status = {"status": FINISHED} if failure is None else {"status": FAILED, "traceback": failure}
        self._put(stage, part, {**status, "seconds": round(seconds, 1), **found})

    def fail(self, stage: str, part: str, traceback: str, seconds: float) -> None:
        """A part ended in an error."""
        self._put(stage, part, {"status": FAILED, "seconds": round(seconds, 1), "traceback": traceback})

    def _put(self, stage: str, part: str, entry: dict[str, Any]) -> None:
        self.entries.setdefault(stage, {})[part] = {**entry, "date": now(), "code": code_name()}
        self.write()

    def write(self) -> None:
        """Writes both files, each whole or not at all."""
        held = {"schema": SCHEMA, "is_dry": self.is_dry, "machine": self.machine, "stages": self.entries}
        text = json.dumps(without_nan(held), indent=1, allow_nan=False) + "\n"
        write_whole(self.folder / JSON_NAME, text.encode("utf-8"))
        write_whole(self.folder / MARKDOWN_NAME, markdown(self.machine, self.entries).encode("utf-8"))


def over_limits(folder: Path) -> list[str]:
    """What keeps the folder from being brought back, a line each."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    found = [
        f"{path.name} has {path.stat().st_size / 1e6:.1f} MB, at most {MOST_FILE_BYTES / 1e6:.0f} come back"
        for path in files
        if path.stat().st_size > MOST_FILE_BYTES
    ]
    if len(files) > MOST_FILES:
        found.append(f"{folder} holds {len(files)} files, at most {MOST_FILES} come back")
    return found


def now() -> str:
    """The moment, such that later ones sort later."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f UTC")


@functools.cache
def code_name() -> str:
    """Which code this is: a commit, or where there is no repository a checksum of the sources."""
    try:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return f"sources {sources_checksum()}"


def sources_checksum() -> str:
    """Of all Python files of the four source roots."""
    found = hashlib.sha256()
    for root in ("specbound", "controller", "profiling", "train"):
        for path in sorted((ROOT / root).rglob("*.py")):
            found.update(str(path.relative_to(ROOT)).encode())
            found.update(path.read_bytes())
    return found.hexdigest()[:10]


def markdown(machine: Mapping[str, Any], entries: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """All that was found, as it goes into the documentation."""
    versions = ", ".join(f"{name} {version}" for name, version in machine.get("versions", {}).items())
    lines = [f"# {machine.get('name', 'no machine')}", "", versions, ""]
    known = [stage.name for stage in STAGES if stage.name in entries]
    for stage in [*known, *(name for name in entries if name not in known)]:
        for part, entry in entries[stage].items():
            lines += [f"## {stage}: {part}", "", *_entry_lines(entry)]
    return "\n".join(lines).rstrip() + "\n"


def _entry_lines(entry: Mapping[str, Any]) -> Iterator[str]:
    seconds = f", {entry['seconds']:g} s" if "seconds" in entry else ""
    state = {FINISHED: "", FAILED: "failed, ", BEGUN: "begun and not ended, "}[entry["status"]]
    yield f"{state}{entry['date'][:16]} UTC, code {entry['code']}{seconds}"
    yield ""
    for table in entry.get("tables", ()):
        yield from table_lines(Table(table["title"], tuple(table["columns"]), table["rows"]))
        yield ""
    yield from (f"* {note}" for note in entry.get("notes", ()))
    if "traceback" in entry:
        yield from ("", "```", entry["traceback"].rstrip(), "```")
    yield ""


def table_lines(table: Table) -> Iterator[str]:
    """A table as Markdown."""
    yield f"**{table.title}**"
    yield ""
    yield f"| {' | '.join(table.columns)} |"
    yield f"|{'---|' * len(table.columns)}"
    for row in table.rows:
        yield f"| {' | '.join(shown(cell) for cell in row)} |"


def shown(cell: Cell) -> str:
    """A cell for a reader: four digits, a dash for what does not apply."""
    if cell is None or (isinstance(cell, float) and not math.isfinite(cell)):
        return "–"
    if isinstance(cell, float):
        return f"{cell:.4g}" if abs(cell) < 1000 else f"{cell:,.0f}"
    return str(cell).replace("|", "\\|").replace("\n", " ")
