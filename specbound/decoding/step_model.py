"""The model that a decoder's steps run on at each level of exactness: itself, or a row-stable twin tried here."""

from specbound.decoding.exactness import require_exactness
from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.model.families import name_of
from specbound.decoding.model.row_stable import row_stable_model
from specbound.decoding.model.row_stable_check import check_row_stable
from specbound_controller.errors import UnsupportedModelError


def step_adapter(adapter: ModelAdapter, exactness: str) -> ModelAdapter:
    """What runs the steps: the model itself, or at `bitwise` a row-stable twin of it, tested on this machine.

    Raises:
        UnsupportedModelError: the twin's rows differ here, or the model cannot have one.
    """
    require_exactness(exactness)
    if exactness == "token":
        return adapter
    if any(type(module).__module__.startswith("peft.") for module in adapter.model.modules()):
        raise UnsupportedModelError(
            f"{name_of(adapter.model)} has PEFT adapters, which can be switched behind the twin's back: merge them for "
            f"bitwise exactness"
        )
    twin = ModelAdapter(row_stable_model(adapter.model), adapter.exits)
    check_row_stable(twin)
    return twin
