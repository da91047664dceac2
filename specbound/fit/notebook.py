"""What a run has found so far, kept in its folder after every stage, so that a killed run goes on."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from specbound.fit.config import FitConfig
from specbound.models.names import NOTES_FILE
from specbound.results.files import write_whole
from specbound.results.report import without_nan
from specbound_controller.errors import InputError

SCHEMA = 1
_FREE = ("out", "json", "minutes")
"""Settings that may change from one start of a run to the next."""


class Notebook:
    """Stage -> plain values."""

    def __init__(self, folder: Path, config: FitConfig, fingerprint: str, exits: str) -> None:
        """Opens what an earlier run left. exits: name of the trained ones, or empty.

        Raises InputError where it was another run's, or is none.
        """
        self._path = folder / NOTES_FILE
        settings = {name: value for name, value in asdict(config).items() if name not in _FREE}
        settings["model"], settings["exits"] = fingerprint, exits or None
        self._values: dict[str, Any] = {"schema": SCHEMA, "settings": settings}
        if not self._path.exists():
            found = sorted(path.name for path in folder.iterdir())
            if found:
                raise InputError(f"out must be new, empty, or hold a run of fit, got {folder} with {found[0]}")
            return
        try:
            kept: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
            known = kept["settings"] if kept["schema"] == SCHEMA else {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self._path} is damaged ({error}): choose another folder") from error
        for name, value in settings.items():
            if known.get(name) != value:
                raise InputError(
                    f"out holds a run with {name} {_short(known.get(name))}, got {_short(value)} ({folder}); choose "
                    "another folder"
                )
        self._values = kept

    def get(self, stage: str) -> Any:
        """What was found; None where the stage has not ended."""
        return self._values.get(stage)

    def once(self, stage: str, make: Callable[[], Any]) -> Any:
        """What was found before, or is found now and kept."""
        if stage not in self._values:
            self._values[stage] = without_nan(make())
            self.write()
        return self._values[stage]

    def write(self) -> None:
        """Writes all that is known, whole or not at all."""
        write_whole(self._path, (json.dumps(self._values, indent=1) + "\n").encode("utf-8"))

    @property
    def values(self) -> dict[str, Any]:
        """All stages."""
        return self._values


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 24 else text[:24]
