"""Machine-readable results: one row per method and kind of content, with versions and machine. Measures nothing."""

import json
import math
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specbound import __version__
from specbound.results.files import write_whole
from specbound.results.rows import Row
from specbound_controller.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SCHEMA = 1
"""Version of the form of a report."""

REPORTED_PACKAGES = ("torch", "transformers", "numpy", "safetensors", "bitsandbytes", "lightning")


def machine_info() -> dict[str, Any]:
    """What the figures were measured on."""
    import torch

    from specbound_profiling.costs.machine import machine_fingerprint

    return {
        "name": machine_fingerprint("cuda" if torch.cuda.is_available() else "cpu"),
        "num_cores": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def model_info(name: str, model: "PreTrainedModel") -> dict[str, Any]:
    """What the figures were measured with."""
    from specbound.models.fingerprint import model_fingerprint

    return {
        "name": name,
        "type": model.config.model_type,
        "num_layers": model.config.num_hidden_layers,
        "num_parameters": model.num_parameters(),
        "fingerprint": model_fingerprint(model),
    }


def logged_model(log: Path) -> dict[str, Any]:
    """What a log says of the model it was recorded with."""
    from specbound_profiling.log.store import open_log

    manifest = open_log(log).manifest
    return {"name": manifest.model, "num_layers": manifest.num_layers, "fingerprint": manifest.model_fingerprint}


def versions() -> dict[str, str]:
    """Versions of this package, Python and what it stands on; packages that are not installed are left out."""
    found = {"specbound": __version__, "python": platform.python_version()}
    for package in REPORTED_PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def build_report(rows: Sequence[Row], model: Mapping[str, Any], **extra: Any) -> dict[str, Any]:
    """The report of the running command. extra: more top-level keys."""
    return {
        "schema": SCHEMA,
        "command": ["specbound", *sys.argv[1:]],
        "versions": versions(),
        "machine": machine_info(),
        "model": dict(model),
        **extra,
        "rows": [asdict(row) for row in rows],
    }


def write_report(report: Mapping[str, Any], destination: str) -> None:
    """Writes JSON to a file, whole or not at all, or to standard output (`-`). nan becomes null."""
    text = json.dumps(without_nan(report), indent=2, allow_nan=False) + "\n"
    if destination == "-":
        sys.stdout.write(text)
        return
    try:
        write_whole(Path(destination).expanduser(), text.encode("utf-8"))
    except OSError as error:
        raise InputError(f"--json must name a writable file, got {destination} ({error.strerror})") from None


def check_destination(destination: str | None) -> None:
    """Raises InputError before hours of work where `--json FILE` is a folder, or its folder does not exist."""
    if destination is None or destination == "-":
        return
    path = Path(destination).expanduser().resolve()
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"--json must name a file in a folder that exists, got {destination}")


def without_nan(value: Any) -> Any:
    """The same values with null for every number that JSON does not know."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
