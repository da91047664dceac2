"""Errors that a user can cause. The command line prints them as one line and exits with 2."""


class InputError(ValueError):
    """Bad input: the message says what, where, and what to do, in one line."""


class UnsupportedModelError(InputError):
    """A model that the adapter cannot run layer by layer, named, with the reason."""


class MissingExtraError(InputError):
    """A feature whose optional packages are not installed; names the pip command."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs the extra [{extra}]: pip install 'specbound[{extra}]'")
