"""Errors that a user can cause. The command line prints them as one line and exits with 2."""

from collections.abc import Sequence


class InputError(ValueError):
    """Bad input: the message says what, where, and what to do, in one line."""


class UnsupportedModelError(InputError):
    """A model that the adapter cannot run layer by layer, named, with the reason."""


class MissingExtraError(InputError):
    """A feature whose optional packages are not installed; names the pip command."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs the extra [{extra}]: pip install 'specbound[{extra}]'")


def require_at_least(least: float, **values: float | None) -> None:
    """Raises InputError that names the first value below `least`, or that is no number; None is not looked at."""
    for name, value in values.items():
        if value is not None and not value >= least:
            raise InputError(f"{name} must be >= {least}, got {value}")


def require_one_of(known: Sequence[str], **values: str) -> None:
    """Raises InputError that names the first value that is not known."""
    for name, value in values.items():
        if value not in known:
            raise InputError(f"{name} must be one of {', '.join(known)}, got {value!r}")
