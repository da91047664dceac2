"""The counts of a model's own text on disk."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specbound.stores.folder import read_store, write_store
from specbound_controller.errors import InputError
from specbound_controller.fingerprint import same_model
from specbound_controller.sources.own_text import OwnText
from specbound_controller.trees.rates import prior_rates

OWN_TEXT_ARRAYS = ("keys", "starts", "tokens", "counts")


def save_own_text(folder: Path, store: OwnText, facts: Mapping[str, Any]) -> None:
    """Writes the counts, whole or not at all. facts: `model_fingerprint` and what a reader should know."""
    write_store(folder, "own_text", {name: getattr(store, name) for name in OWN_TEXT_ARRAYS}, facts)


def load_own_text(folder: Path, fingerprint: str) -> tuple[OwnText, dict[str, list[float]]]:
    """The counts that `specbound write` left in a folder, memory-mapped, and the rates of sources on such text.

    Args:
        folder: what was given as `--out`, or the counts inside.
        fingerprint: of the model that they are wanted for.

    Raises:
        InputError: there are none, or they are another model's.
    """
    inside = folder / "own_text"
    arrays, config = read_store(inside if inside.is_dir() else folder, "own_text", OWN_TEXT_ARRAYS)
    held = str(config.get("model_fingerprint"))
    if not same_model(held, fingerprint):
        raise InputError(f"own text must be of the model {fingerprint[:16]}, got {held[:16]} ({folder})")
    held_rates, cells = config.get("rates", {}), {name: len(rates) for name, rates in prior_rates().items()}
    rates = {name: rates for name, rates in held_rates.items() if len(rates) == cells.get(name)}
    return OwnText(*(arrays[name] for name in OWN_TEXT_ARRAYS)), rates
