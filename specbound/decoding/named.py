"""Policies by name for a decoder: rooms above this one make them, which is why they are looked up when asked for."""

from collections.abc import Callable
from pkgutil import resolve_name

from transformers import PreTrainedModel

from specbound_controller.policy import Policy

AUTO = "auto"
MAKER = "specbound.stores.auto:auto_policy"
"""Makes a tree policy with what it needs for a model."""


def named_policy(name: str, model: PreTrainedModel, compression: str, exactness: str, is_compiled: bool) -> Policy:
    """The policy of a name: `auto` is the guarded tree of the free sources, others are those of `auto_policy`.

    Raises InputError where there is none of that name, MissingExtraError where prices cannot be measured.
    """
    make: Callable[..., Policy] = resolve_name(MAKER)
    if name == AUTO:
        return make(model, compression, exactness, is_compiled=is_compiled)
    return make(model, compression, exactness, name, is_compiled=is_compiled)
