"""What a run was asked for, kept in its folder, so that the same command goes on and no other one does."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specbound.results.files import write_file
from specbound_controller.errors import InputError

PLAN_FILE = "plan.json"


def keep_plan(folder: Path, plan: Mapping[str, Any]) -> None:
    """Writes the plan, or compares it with what is there.

    Raises:
        InputError: the folder holds a run of other settings: the first that differs is named.
    """
    path = folder / PLAN_FILE
    wanted = json.loads(json.dumps(plan))
    if not path.exists():
        write_file(path, json.dumps(wanted, indent=1).encode())
        return
    found = read_kept(path)
    for name in wanted:
        if found.get(name) != wanted[name]:
            raise InputError(
                f"out holds another run: {name} is {found.get(name)!r} there and {wanted[name]!r} here "
                f"({folder}); choose another folder"
            )


def read_kept(path: Path) -> Any:
    """A JSON file that an earlier run left. Raises InputError where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read: {error}; delete it, and the same command measures it again"
        ) from error
