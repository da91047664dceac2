"""Settings that were chosen on training prompts, for every compression level, and their file: plain JSON, checked as it
is read. Knows no log: whoever chose them says on what.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from specbound_controller.baselines import BASELINES
from specbound_controller.baselines.fixed import StaticSettings
from specbound_controller.baselines.situation import Settings
from specbound_controller.compression import COMPRESSIONS
from specbound_controller.errors import InputError
from specbound_controller.text_files import parse_json, read_text
from specbound_controller.trees.names import TUNED_TREES
from specbound_controller.trees.settings import TreeSettings

SCHEMA = 1


def _settings_class(place: str) -> type[Settings]:
    """The class at a place of `BASELINES`."""
    module, name = place.split(":")
    found: type[Settings] = getattr(import_module(f"specbound_controller.baselines.{module}"), name)
    return found


SETTINGS: Mapping[str, type[Settings]] = {
    "best_static": StaticSettings,
    "best_static_annealed": StaticSettings,
    **{name: _settings_class(place) for name, place in BASELINES.items()},
}
"""Name of a policy -> the class of its settings."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """The settings of one policy at one level."""

    settings: Settings
    tokens_per_second: float
    """Replayed on the training prompts."""
    num_candidates: int
    """Settings that were tried."""


@dataclass(frozen=True, slots=True)
class TunedTree:
    """The same of a draft tree."""

    settings: TreeSettings
    tokens_per_second: float
    """Replayed on some of the training prompts."""
    num_candidates: int
    """Settings that were tried."""


@dataclass(frozen=True, slots=True)
class TunedLevel:
    """All policies at one compression level."""

    alpha: float
    """Strength of annealing, by likelihood on the training prompts."""
    plain_tokens_per_second: float
    """Plain decoding's, replayed on the same prompts."""
    exactness: str
    """Level of exactness that the costs were measured at."""
    policies: Mapping[str, Tuned]
    """By name, each of `SETTINGS`."""
    trees: Mapping[str, TunedTree] = field(default_factory=dict)
    """By name, each of `TUNED_TREES`; empty where the log holds no stores, and in files of earlier versions."""

    @property
    def everything(self) -> dict[str, Tuned | TunedTree]:
        """Policies and trees."""
        return {**self.policies, **self.trees}


@dataclass(frozen=True, slots=True)
class TunedFile:
    """What was tuned on which prompts, for which model."""

    model_fingerprint: str
    num_layers: int
    exit_layers: tuple[int, ...]
    """Exit layers that were searched."""
    prompts_hash: str
    """Of the log's prompts."""
    num_prompts: int
    """Prompts tuned on."""
    budget: int
    """Most settings that any policy was allowed: as many as the search for the best static action tries."""
    levels: Mapping[str, TunedLevel]
    """By compression level."""
    exits: str = ""
    """Name of the trained exits that the log was recorded with; empty for the model's own."""

    def save(self, path: Path) -> None:
        """Writes the file, whole or not at all. Raises InputError where it cannot be written."""
        content = {"schema": SCHEMA, **asdict(self)}
        partial = path.with_name(path.name + ".partial")
        try:
            partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise InputError(f"tuned policies cannot be written to {path}: {error.strerror}") from None

    @staticmethod
    def load(path: Path) -> "TunedFile":
        """Reads what `save` wrote. Raises InputError, one line, where it is missing, damaged or something else."""
        try:
            text = read_text(path)
        except InputError as error:
            raise InputError(f"tuned policies {error}") from None
        try:
            return _tuned_file(parse_json(text, path.name))
        except ValueError as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"{path} holds no tuned policies: {reason}; write it with specbound tune") from None


def _tuned_file(content: Any) -> TunedFile:
    if not isinstance(content, dict):
        raise ValueError("it must hold one JSON object")
    if content.get("schema") != SCHEMA:
        raise ValueError(f"schema must be {SCHEMA}, got {content.get('schema')!r}")
    others = {name: value for name, value in content.items() if name not in ("schema", "levels")}
    levels = _object(content.get("levels"), "levels")
    unknown = sorted(set(levels) - set(COMPRESSIONS))
    if unknown or not levels:
        raise ValueError(f"levels must be among {', '.join(COMPRESSIONS)}, got {unknown[0] if unknown else 'none'!r}")
    found: TunedFile = _built(TunedFile, {"exits": "", **others, "levels": {}}, "the file")
    if found.num_layers < 2 or not all(0 <= layer < found.num_layers for layer in found.exit_layers):
        raise ValueError(f"exit_layers must be in [0, {found.num_layers - 1}], got {list(found.exit_layers)}")
    built = {name: _level(values, name, found.exit_layers) for name, values in levels.items()}
    return replace(found, levels=built)


def _level(values: Any, name: str, exit_layers: tuple[int, ...]) -> TunedLevel:
    values = _object(values, name)
    policies = {}
    for policy, entry in _object(values.get("policies"), f"policies of {name}").items():
        if policy not in SETTINGS:
            raise ValueError(f"{name}: unknown policy {policy!r}")
        where = f"{name}: {policy}"
        entry = _object(entry, where)
        settings = _built(SETTINGS[policy], _object(entry.get("settings"), where), where)
        if not _layers(settings) <= {0, *exit_layers}:
            raise ValueError(f"{where}: exit layers must be among {list(exit_layers)}, got {sorted(_layers(settings))}")
        policies[policy] = _built(Tuned, {**entry, "settings": settings}, where)
    trees = {}
    for tree, entry in _object(values.get("trees", {}), f"trees of {name}").items():
        if tree not in TUNED_TREES:
            raise ValueError(f"{name}: unknown tree {tree!r}")
        trees[tree] = _built(TunedTree, _object(entry, f"{name}: {tree}"), f"{name}: {tree}")
    level: TunedLevel = _built(TunedLevel, {**values, "policies": policies, "trees": trees}, name)
    return level


def _layers(settings: Any) -> set[int]:
    """Exit layers that settings name, in themselves and in the actions that they hold."""
    if isinstance(settings, tuple):
        return set().union(*map(_layers, settings))
    if not is_dataclass(settings):
        return set()
    own = {settings.exit_layer} if hasattr(settings, "exit_layer") else set()
    return own.union(*(_layers(getattr(settings, field.name)) for field in fields(settings)))


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be an object")
    return value


def _built(kind: Any, values: dict[str, Any], where: str) -> Any:
    """A dataclass from its values: every field there, of its type, and no other."""
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    for name in names:
        if name not in values:
            raise ValueError(f"{where}: {name} is missing")
    for name in values:
        if name not in names:
            raise ValueError(f"{where}: unknown key {name!r}")
    arguments = {name: _value(hints[name], values[name], f"{where}: {name}") for name in names}
    try:
        return kind(**arguments)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _value(hint: Any, value: Any, where: str) -> Any:
    """A JSON value as the type that a field asks for."""
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where} must be a list, got {value!r}")
        return tuple(_value(get_args(hint)[0], entry, where) for entry in value)
    if isinstance(hint, type) and is_dataclass(hint) and isinstance(value, dict):
        return _built(hint, value, where)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if hint in (int, str) and isinstance(value, hint) and not isinstance(value, bool):
        return value
    if hint in (int, float, str) or is_dataclass(hint) or get_origin(hint) in (Union, UnionType):
        raise ValueError(f"{where} must be {getattr(hint, '__name__', hint)}, got {value!r}")
    return value  # mappings and settings, which were built before
