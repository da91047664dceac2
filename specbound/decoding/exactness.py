"""The levels of output equivalence, and the adapter that runs a decoder's steps at each. Imports torch when asked."""

from typing import TYPE_CHECKING

from specbound_controller.errors import InputError, UnsupportedModelError

if TYPE_CHECKING:
    from specbound.decoding.model.adapter import ModelAdapter

EXACTNESS_LEVELS = ("token", "bitwise")
"""`token`: the accept rule is exact. `bitwise`: the kernels are row-stable too, in any dtype and compression."""


def require_exactness(level: str) -> None:
    """Raises InputError unless the level exists."""
    if level not in EXACTNESS_LEVELS:
        raise InputError(f"exactness must be one of {', '.join(EXACTNESS_LEVELS)}, got {level!r}")


def step_adapter(adapter: "ModelAdapter", exactness: str) -> "ModelAdapter":
    """What runs the steps: the model itself, or at `bitwise` a row-stable twin of it, tested on this machine.

    Raises:
        UnsupportedModelError: the twin's rows differ here, or the model cannot have one.
    """
    require_exactness(exactness)
    if exactness == "token":
        return adapter
    from specbound.decoding.model.adapter import ModelAdapter, name_of
    from specbound.decoding.model.row_stable import check_row_stable, row_stable_model

    if any(type(module).__module__.startswith("peft.") for module in adapter.model.modules()):
        raise UnsupportedModelError(
            f"{name_of(adapter.model)} has PEFT adapters, which can be switched behind the twin's back: merge them for "
            f"bitwise exactness"
        )
    twin = ModelAdapter(row_stable_model(adapter.model))
    check_row_stable(twin)
    return twin
