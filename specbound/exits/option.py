"""The option `--exits` of commands. Imports no torch, so that `--help` is fast."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ExitsOption:
    """Which trained exits draft; the base of every config that takes them, beside others with slots of their own."""

    __slots__ = ()
    exits: str | None = None
    """Trained exits of this model, which draft in place of its own: a folder that train-exits wrote, OWNER/NAME on the
    Hub, or smollm2."""
