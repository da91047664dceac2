"""Policies that users bring: `module:Class` by name, and whether an object is a policy at all. Knows no model."""

import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from specbound_controller.errors import InputError
from specbound_controller.policy import Policy
from specbound_controller.settings import is_setting

_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_METHODS = ("reset", "decide", "observe")
_FLAGS = ("needs_features", "needs_full_signals")
_FORM = (
    "a policy has the methods reset(), decide(features) and observe(record) and the attributes needs_features and "
    "needs_full_signals"
)


def is_own_policy(name: str) -> bool:
    """Whether a name has the form `module:Class`, and is no other name with a colon."""
    return _NAME.fullmatch(name) is not None and not (is_setting(name) or name.startswith("hf:"))


def own_policy(name: str) -> Policy:
    """A policy of a user's own: `module:Class`, called without arguments; modules of the current folder count too.

    Raises InputError, one line, where there is none.
    """
    module, _, attribute = name.partition(":")
    try:
        made: Any = _module(module)
        for part in attribute.split("."):
            made = getattr(made, part)
    except ImportError as error:
        raise InputError(f"policy {name!r}: module {module!r} cannot be imported: {error}") from error
    except AttributeError:
        raise InputError(f"policy {name!r}: module {module!r} has no {attribute!r}") from None
    if callable(made) and not _is_policy(made):
        try:
            made = made()
        except TypeError as error:
            raise InputError(f"policy {name!r} must be callable without arguments: {error}") from error
    return require_policy(made, name)


def require_policy(policy: Any, name: str = "") -> Policy:
    """The policy itself. Raises InputError that says what to write where the object is none.

    name: what it was called, for the message.
    """
    if _is_policy(policy):
        return policy  # type: ignore[no-any-return]
    kind = type(policy).__name__
    where = f"policy {name!r}" if name else "policy"
    if isinstance(policy, type):
        raise InputError(f"{where} must be an object, got the class {policy.__name__}: write {policy.__name__}(...)")
    if kind in ("Controller", "HubController"):
        raise InputError(
            f"{where} must be a policy, got a {kind}: write SpecBoundDecoder.from_pretrained(model, FOLDER), or "
            "controller.policy(costs, compression)"
        )
    if kind in ("Decision", "Action", "TreePlan", "DraftVocabulary"):
        makers = {"Decision": "FixedPolicy(decision)", "TreePlan": "TreePolicy(plan)"}
        raise InputError(f"{where} must be a policy, got a {kind}: write {makers.get(kind, 'StaticPolicy(...)')}")
    missing = [each for each in (*_METHODS, *_FLAGS) if not hasattr(policy, each)]
    raise InputError(f"{where} must be a policy, got a {kind} without {', '.join(missing)}; {_FORM}")


def _is_policy(found: Any) -> bool:
    if isinstance(found, type):
        return False
    return all(callable(getattr(found, name, None)) for name in _METHODS) and all(hasattr(found, n) for n in _FLAGS)


def _module(name: str) -> Any:
    here = str(Path.cwd())
    if here in sys.path or "" in sys.path:
        return import_module(name)
    sys.path.append(here)
    try:
        return import_module(name)
    finally:
        sys.path.remove(here)
