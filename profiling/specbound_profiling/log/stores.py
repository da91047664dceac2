"""What draft trees draw from beside the text, as it lies in a log: whole, so that a log replays on every machine.

Knows no model and no tree.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from specbound.stores.bigrams import read_bigrams, save_bigrams
from specbound.stores.own_text import OWN_TEXT_ARRAYS, load_own_text, save_own_text
from specbound_controller.errors import InputError
from specbound_controller.sources.stores import Stores

FOLDER = "stores"


def checksums(stores: Stores) -> dict[str, str]:
    """Name of each store -> sha256 of what it holds."""
    found = {}
    if stores.bigrams is not None:
        found["bigrams"] = _checksum([stores.bigrams.best])
    if stores.own_text is not None:
        found["own_text"] = _checksum([getattr(stores.own_text, name) for name in OWN_TEXT_ARRAYS])
    return found


def _checksum(arrays: list[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def write_log_stores(
    root: Path, stores: Stores, fingerprint: str, rates: Mapping[str, Sequence[float]] | None = None
) -> None:
    """Puts the stores into a log that does not hold them yet. rates: counted with the own text (`load_own_text`)"""
    bigrams, own_text = root / FOLDER / "bigrams", root / FOLDER / "own_text"
    if stores.bigrams is not None and not bigrams.exists():
        save_bigrams(bigrams, stores.bigrams, fingerprint)
    if stores.own_text is not None and not own_text.exists():
        save_own_text(own_text, stores.own_text, {"model_fingerprint": fingerprint, "rates": dict(rates or {})})


def read_log_stores(root: Path, expected: Mapping[str, str], fingerprint: str) -> tuple[Stores, dict[str, list[float]]]:
    """The stores of a log, and rates that were counted with its own text. expected: its manifest's checksums.

    Raises:
        InputError: one is missing, or is not what the manifest names.
    """
    folder = root / FOLDER
    bigrams = read_bigrams(folder / "bigrams", fingerprint) if "bigrams" in expected else None
    text, rates = load_own_text(folder / "own_text", fingerprint) if "own_text" in expected else (None, {})
    stores = Stores(bigrams, text)
    for name, found in checksums(stores).items():
        if found != expected[name]:
            raise InputError(
                f"{folder / name} must be the {name} that was recorded, {expected[name][:16]}, got {found[:16]}; "
                "profile again"
            )
    return stores, rates
