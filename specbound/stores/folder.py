"""A store on disk: a few arrays that are memory-mapped, and a config that says of which model and text they are."""

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from specbound_controller.errors import InputError

CONFIG_FILE = "config.json"
SCHEMA = 1


def write_store(folder: Path, kind: str, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
    """Writes a store, whole or not at all; one that is there already is replaced.

    Args:
        kind: `bigrams` or `own_text`.
        facts: what a reader should know: the model's fingerprint, tokens, hashes.

    Raises:
        InputError: the folder holds something else, or cannot be written.
    """
    if folder.exists() and not _is_store(folder):
        raise InputError(f"out must be a new folder or a store of draft tokens, got {folder}")
    partial = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.mkdir(parents=True)
        for name, array in arrays.items():
            np.save(partial / f"{name}.npy", array, allow_pickle=False)
        config = {"schema": SCHEMA, "kind": kind, **facts}
        (partial / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial, folder)
    except OSError as error:
        raise InputError(f"a store cannot be written to {folder}: {error.strerror}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_store(folder: Path, kind: str, names: tuple[str, ...]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays, memory-mapped, and the config of a store.

    Raises:
        InputError: there is no such store, it is of another kind or schema, or damaged.
    """
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        if not isinstance(config, dict) or (config.get("schema"), config.get("kind")) != (SCHEMA, kind):
            raise InputError(f"{folder} must hold a store of kind {kind}, schema {SCHEMA}")
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in names}
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder} holds no whole store of kind {kind}: {' '.join(str(error).split())}") from None
    return arrays, config


def _is_store(folder: Path) -> bool:
    try:
        return json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")).get("kind") in ("bigrams", "own_text")
    except (OSError, ValueError, AttributeError):
        return False
