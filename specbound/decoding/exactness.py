"""The levels of output equivalence. Imports no torch, so that `--help` is fast."""

from specbound_controller.errors import require_one_of

EXACTNESS_LEVELS = ("token", "bitwise")
"""`token`: the accept rule is exact. `bitwise`: the kernels are row-stable too, in any dtype and compression."""


def require_exactness(level: str) -> None:
    """Raises InputError unless the level exists."""
    require_one_of(EXACTNESS_LEVELS, exactness=level)
