"""Names of policies that need no file: the same in every command and for a decoder."""

from collections.abc import Sequence

from specbound_controller.errors import InputError
from specbound_controller.own_policy import is_own_policy, own_policy
from specbound_controller.policy import Policy
from specbound_controller.settings import FORM, Setting, is_option, is_setting
from specbound_controller.trees.names import is_tree_name


def is_written_out(name: str) -> bool:
    """Whether a name says all that the policy is: `static:...` or `module:Class`."""
    return is_setting(name) or is_own_policy(name)


def written_out(name: str) -> Policy:
    """The policy of such a name. Raises InputError where there is none."""
    return Setting.parse(name).policy() if is_setting(name) else own_policy(name)


def require_policy_name(name: str, known: Sequence[str], has_trees: bool = True, what: str = "policy") -> None:
    """Raises InputError where a name is neither known, nor written out, nor a tree's. what: the option it came by."""
    if name in known or (has_trees and is_tree_name(name)) or is_own_policy(name):
        return
    if is_setting(name):
        Setting.parse(name)
        return
    trees = ", exitE_treeN" if has_trees else ""
    raise InputError(f"{what} must be one of {', '.join(known)}{trees}, {FORM}, module:Class, got {name!r}")


def rejoined(names: Sequence[str]) -> tuple[str, ...]:
    """A list that was split at every comma, with the options of fixed settings back where they belong."""
    whole: list[str] = []
    for name in names:
        if whole and is_setting(whole[-1]) and is_option(name):
            whole[-1] = f"{whole[-1]},{name}"
        else:
            whole.append(name)
    return tuple(whole)
