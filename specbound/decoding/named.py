"""Policies by name for a decoder: rooms above this one make them, which is why they are looked up when asked for."""

from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from transformers import PreTrainedModel

from specbound.decoding.live_model import TrainedFor
from specbound_controller.errors import InputError
from specbound_controller.own_policy import is_own_policy, own_policy
from specbound_controller.policy import Policy, StaticPolicy
from specbound_controller.settings import FORM, Setting, is_setting
from specbound_controller.trees.names import TREE_NAMES, is_tree_name

AUTO, PLAIN = "auto", "plain"
MAKER = "specbound.stores.auto:auto_policy"
"""Makes a tree policy with what it needs for a model."""
FOLDERS = "specbound.fitted"
"""Opens what fit and train-controller wrote, and prices policies by this machine's costs."""


def named_policy(
    name: str,
    model: PreTrainedModel,
    compression: str,
    exactness: str,
    is_compiled: bool,
    exits: TrainedFor | None = None,
) -> Policy:
    """The policy of a name: `plain`, `auto` (the guarded tree of the free sources), a tree, `static:...` (guarded),
    `module:Class`, else what a folder or a Hub name holds for this model. exits: trained ones that the decoder reads.

    Raises InputError where there is none of that name, MissingExtraError where prices cannot be measured.
    """
    if name == PLAIN:
        return StaticPolicy((), w_max=0)
    if is_setting(name):
        return Setting.parse(name).policy(guarded=True)
    if is_own_policy(name):
        return own_policy(name)
    if name == AUTO or is_tree_name(name):
        make: Callable[..., Policy] = resolve_name(MAKER)
        trees = () if name == AUTO else (name,)
        return make(model, compression, exactness, *trees, is_compiled=is_compiled, exits=exits)
    if name != "demo" and "/" not in name and not Path(name).exists():
        raise InputError(
            f"policy must be {PLAIN}, {AUTO}, one of {', '.join(TREE_NAMES)}, exitE_treeN, {FORM}, module:Class, or a "
            f"folder or OWNER/NAME that fit or train-controller wrote, got {name!r}"
        )
    return opened(name, model, compression, exactness, is_compiled, exits)[1]()


def opened(
    name: str,
    model: PreTrainedModel,
    compression: str,
    exactness: str | None,
    is_compiled: bool,
    exits: TrainedFor | None = None,
) -> tuple[str, Callable[[], Policy]]:
    """The exactness that something was made for, and what makes its policy when it is first needed."""
    found: Any = resolve_name(f"{FOLDERS}:opened")
    return found(name, model, compression, exactness, is_compiled, exits)


def guarded(
    policy: Policy,
    model: PreTrainedModel,
    compression: str,
    exactness: str,
    is_compiled: bool,
    exits: TrainedFor | None = None,
) -> Policy:
    """The policy behind the never-slower guard, at the prices of this machine."""
    make: Any = resolve_name(f"{FOLDERS}:guarded")
    return make(policy, model, compression, exactness, is_compiled, exits)
