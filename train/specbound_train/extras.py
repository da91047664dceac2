"""Whether the packages of the extra `[train]` are there. Imports none of them."""

import importlib.util
from collections.abc import Sequence

from specbound_controller.errors import MissingExtraError

LOGGER_PACKAGES = ("tensorboard", "wandb")
"""Loggers that are packages of their own, by their names."""


def require_extras(what: str, packages: Sequence[str], logger: str) -> None:
    """Raises MissingExtraError where a package is missing, the logger's own among them. what: what needs them."""
    for name in (*packages, *(name for name in LOGGER_PACKAGES if name == logger)):
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(f"{what} with logger {logger} ({name})", "train")
