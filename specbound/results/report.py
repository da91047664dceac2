"""Machine-readable results: one row per method and kind of content, with versions and machine. Measures nothing."""

import json
import math
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from specbound import __version__
from specbound.results.files import write_whole
from specbound_controller.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SCHEMA = 1
"""Version of the form of a report."""

REPORTED_PACKAGES = ("torch", "transformers", "numpy", "safetensors", "bitsandbytes", "lightning")


@dataclass(frozen=True, slots=True)
class Row:
    """One method on one kind of content. A value that does not apply is nan, and null in JSON."""

    method: str
    """`transformers`, `plain`, `best_static`, `controller`, `oracle`, or a baseline's name."""
    compression: str
    """How the weights were held."""
    task: str
    """Kind of content; `all` holds the totals."""
    num_prompts: int
    num_tokens: int
    tokens_per_second: float
    """Generated tokens over seconds from call to return."""
    tokens_per_step: float = math.nan
    acceptance_rate: float = math.nan
    layer_calls_per_token: float = math.nan
    speedup: float = math.nan
    """Tokens per second over the reference's: the faster of plain decoding and transformers' generate."""
    speedup_low: float = math.nan
    """Lower end of the 95 % bootstrap interval over prompts."""
    speedup_high: float = math.nan
    """Upper end."""
    outputs_equal: bool | None = None
    """Whether every output equals plain decoding's; None where nothing was decoded."""
    num_near_ties: int = 0
    """Prompts whose output differs, first at a near-tie (its margin is within the kernels' rounding noise)."""
    exactness: str = "token"
    """`token` or `bitwise`."""
    simulated: bool = False
    """Whether the row was replayed, not timed."""

    def without_speedup(self) -> Self:
        """The same row where no speedup may be claimed."""
        return replace(self, speedup=math.nan, speedup_low=math.nan, speedup_high=math.nan)


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


def modelled_rows(
    compression: str, num_prompts: int, num_tokens: int, plain_tokens_per_second: float, speedups: Mapping[str, float]
) -> list[Row]:
    """Rows of a replay that nothing was timed for: prefill is left out, speedups are over modelled plain decoding.

    speedups: method -> speedup; plain decoding is added.
    """
    return [
        Row(
            method=method,
            compression=compression,
            task="all",
            num_prompts=num_prompts,
            num_tokens=num_tokens,
            tokens_per_second=plain_tokens_per_second * speedup,
            speedup=speedup,
            simulated=True,
        )
        for method, speedup in {"plain": 1.0, **speedups}.items()
    ]


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
