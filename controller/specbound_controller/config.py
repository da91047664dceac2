"""What a controller directory's `config.json` says: names, grid, model, provenance. Knows no weights."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from specbound_controller.actions import Action
from specbound_controller.compression import COMPRESSIONS
from specbound_controller.costs import WORK_NAMES, CostTable, with_all_calls
from specbound_controller.features import FEATURE_NAMES
from specbound_controller.score import SIGNAL_NAMES
from specbound_controller.trees.learned import LearnedTrees

SCHEMA = 3
"""Of `config.json`."""
TEXT_KINDS = ("greedy", "sampled")
"""Kinds of text that the step policy's choice is corrected for, by whether the sampling temperature is above 0."""
MAX_COEFFICIENT_S = 1e6
"""Most seconds that a unit of work may cost."""


def correction_key(compression: str, kind: str) -> str:
    """What the corrections of a compression level and a kind of text are stored under."""
    return f"{compression} {kind}"


@dataclass(frozen=True, slots=True)
class ControllerConfig:
    """Everything about a controller but its weights."""

    exit_layers: tuple[int, ...]
    """Exit layers of the exit score and the grid, shallow to deep. (E,)"""
    num_layers: int
    """Layers of the model it was trained for."""
    model_fingerprint: str
    """Fingerprint of that model, equal over its compression levels."""
    compressions: tuple[str, ...]
    """Compression levels it was trained on; the first one stands in for any other."""
    actions: tuple[Action, ...]
    """The action grid, in the order of the step policy's outputs. (A,)"""
    alpha: float
    """Strength of annealing, by likelihood on the training prompts."""
    slopes: tuple[float, ...]
    """Calibration of the exit score: slope for each exit layer. (E,)"""
    offsets: tuple[float, ...]
    """Calibration of the exit score: offset for each exit layer. (E,)"""
    corrections: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Compression level and kind of text, as `correction_key` names them -> tokens that each action's expected gain is
    corrected by there, (A,): what replay found that the predictions miss. What is not named has none."""
    static_actions: Mapping[str, Action] = field(default_factory=dict)
    """Compression level -> the action played at every step, where the step policy was not faster than the best
    static action on the validation prompts. Levels that are not named play the step policy."""
    costs: Mapping[str, CostTable] = field(default_factory=dict)
    """Compression level -> cost table of the training machine."""
    prompts_hash: str = ""
    """Hash of the training prompts."""
    seed: int = 0
    """Seed of the training run."""
    without_compression: bool = False
    """Whether its networks do not look at the compression level; their weights on it are zero."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Library -> version it was trained with."""
    summary: Mapping[str, Any] = field(default_factory=dict)
    """Figures of the training run, on its validation prompts."""
    trees: LearnedTrees | None = None
    """How trees of its node score grow; None where it was trained without trees."""

    def __post_init__(self) -> None:
        if self.num_layers < 2:
            raise ValueError(f"num_layers must be at least 2, got {self.num_layers}")
        layers = self.exit_layers
        if not layers or list(layers) != sorted(set(layers)) or layers[0] < 0 or layers[-1] >= self.num_layers:
            raise ValueError(f"exit_layers must ascend within [0, {self.num_layers - 1}], got {layers}")
        if not self.compressions or not set(self.compressions) <= set(COMPRESSIONS):
            raise ValueError(f"compressions must be among {', '.join(COMPRESSIONS)}, got {self.compressions}")
        if not self.actions or self.actions[0].width != 0 or len(set(self.actions)) != len(self.actions):
            raise ValueError("actions must be distinct and begin with plain decoding")
        played = (*self.actions, *self.static_actions.values())
        if not {action.exit_layer for action in played} <= {0, *layers}:
            raise ValueError(f"actions must use the exit layers {layers}")
        if any(action.width > 64 for action in played):
            raise ValueError("widths must be at most 64")
        if len(self.slopes) != len(layers) or len(self.offsets) != len(layers):
            raise ValueError(f"slopes and offsets must have {len(layers)} values")
        known = {correction_key(level, kind) for level in self.compressions for kind in TEXT_KINDS}
        for key, values in self.corrections.items():
            if key not in known or len(values) != len(self.actions):
                raise ValueError(
                    f"corrections must be {len(self.actions)} values for some of {', '.join(sorted(known))}"
                )
            if any(not abs(value) <= 1e6 for value in values):
                raise ValueError("corrections must be within 1e6")
        if any(not abs(value) <= 1e6 for value in (self.alpha, *self.slopes, *self.offsets)) or self.alpha < 0:
            raise ValueError(f"alpha must be in [0, 1e6], slopes and offsets within 1e6, got {self.alpha}")
        if self.trees is not None and not set(self.trees.growth) <= set(self.compressions):
            raise ValueError(f"trees must be by compression level trained on, got {tuple(self.trees.growth)}")
        for name, mapping in (("costs", self.costs), ("static_actions", self.static_actions)):
            if not set(mapping) <= set(COMPRESSIONS):
                raise ValueError(f"{name} must be by compression level, got {tuple(mapping)}")

    def to_json(self, weights_sha256: str) -> str:
        """The text of `config.json`; names the weights it belongs to."""
        content: dict[str, Any] = {
            "schema": SCHEMA,
            "weights_sha256": weights_sha256,
            "feature_names": FEATURE_NAMES,
            "signal_names": SIGNAL_NAMES,
            **{name: getattr(self, name) for name in self.__dataclass_fields__},
            "actions": [asdict(action) for action in self.actions],
            "static_actions": {name: asdict(action) for name, action in self.static_actions.items()},
            "costs": {name: _cost_content(table) for name, table in self.costs.items()},
        }
        del content["trees"]
        if self.trees is not None:
            content["trees"] = self.trees.to_dict()
        plain = json.loads(json.dumps(content, default=dict))
        return json.dumps(plain | {"config_sha256": content_sha256(plain)}, indent=1) + "\n"

    @staticmethod
    def from_json(text: str) -> tuple["ControllerConfig", str]:
        """The inverse: the config, and the sha256 of its weights.

        Raises:
            ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError: the text is not a
                controller's config, with the reason.
        """
        content = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
        if not isinstance(content, dict):
            raise ValueError("it must hold one JSON object")
        _check_content(content)
        _check_names("feature_names", content["feature_names"], FEATURE_NAMES)
        _check_names("signal_names", content["signal_names"], SIGNAL_NAMES)
        corrections = _object(content, "corrections")
        config = ControllerConfig(
            exit_layers=tuple(_integer(value, "exit_layers") for value in _list(content, "exit_layers")),
            num_layers=_integer(content["num_layers"], "num_layers"),
            model_fingerprint=_text(content["model_fingerprint"], "model_fingerprint"),
            compressions=tuple(_text(value, "compressions") for value in _list(content, "compressions")),
            actions=tuple(_action(value) for value in _list(content, "actions")),
            alpha=_number(content["alpha"], "alpha"),
            slopes=tuple(_number(value, "slopes") for value in _list(content, "slopes")),
            offsets=tuple(_number(value, "offsets") for value in _list(content, "offsets")),
            corrections={
                key: tuple(_number(value, "corrections") for value in _list(corrections, key)) for key in corrections
            },
            static_actions={name: _action(value) for name, value in _object(content, "static_actions").items()},
            costs={name: _cost_table(value) for name, value in _object(content, "costs").items()},
            prompts_hash=_text(content["prompts_hash"], "prompts_hash"),
            seed=_integer(content["seed"], "seed"),
            without_compression=_boolean(content["without_compression"], "without_compression"),
            versions={name: _text(value, "versions") for name, value in _object(content, "versions").items()},
            summary=_object(content, "summary"),
            trees=LearnedTrees.from_dict(_object(content, "trees")) if "trees" in content else None,
        )
        return config, _text(content["weights_sha256"], "weights_sha256")


def content_sha256(content: Mapping[str, Any]) -> str:
    """Checksum of what a `config.json` says, however it is laid out; the checksum itself left out."""
    rest = {key: value for key, value in content.items() if key != "config_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _check_content(content: Mapping[str, Any]) -> None:
    """Raises ValueError where the schema is unknown, a key has no place in it, or anything was changed."""
    schema = content.get("schema")
    if schema != SCHEMA or isinstance(schema, bool | float):
        raise ValueError(f"schema must be {SCHEMA}, got {schema!r}: train the controller again")
    fields = ControllerConfig.__dataclass_fields__
    known = {"schema", "weights_sha256", "config_sha256", "feature_names", "signal_names", *fields}
    unknown = sorted(set(content) - known)
    if unknown:
        raise ValueError(f"unknown key {unknown[0][:40]!r}")
    if content["config_sha256"] != content_sha256(content):
        raise ValueError("its content is not what was saved (config_sha256); copy the file again or train again")


def _without_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key stands twice")
    return content


def _refuse_constant(name: str) -> float:
    raise ValueError(f"numbers must be finite, got {name}")


def _check_names(key: str, found: object, wanted: tuple[str, ...]) -> None:
    if not isinstance(found, list) or tuple(found) != wanted:
        missing = [name for name in wanted if not isinstance(found, list) or name not in found]
        extra = [name for name in found if name not in wanted] if isinstance(found, list) else []
        raise ValueError(
            f"{key} must be those of this version of specbound; missing: {missing[:3]}, unknown: {extra[:3]}; "
            "train the controller again"
        )


def _list(content: Mapping[str, Any], key: str) -> list[Any]:
    value = content[key]
    if not isinstance(value, list):
        raise ValueError(f"{key} must be a list, got {value!r}")
    return value


def _object(content: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = content[key]
    if not isinstance(value, dict):
        raise ValueError(f"{key} must be an object, got {value!r}")
    return value


def _integer(value: object, key: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > 2**62:
        raise ValueError(f"{key} must be a whole number, got {value!r}")
    return value


def _number(value: object, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{key} must be a finite number, got {value!r}")
    return float(value)


def _boolean(value: object, key: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{key} must be true or false, got {value!r}")
    return value


def _text(value: object, key: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{key} must be a text, got {value!r}")
    return value


def _action(value: Mapping[str, Any]) -> Action:
    return Action(
        exit_layer=_integer(value["exit_layer"], "exit_layer"),
        width=_integer(value["width"], "width"),
        threshold=_number(value["threshold"], "threshold"),
        score=_text(value["score"], "score"),
        combine=_text(value["combine"], "combine"),
        lookup_threshold=_number(value["lookup_threshold"], "lookup_threshold"),
    )


def _cost_content(table: CostTable) -> dict[str, Any]:
    return {
        "coefficients": dict(table.coefficients),
        "compression": table.compression,
        "machine": table.machine,
        "held_out_error": table.held_out_error if math.isfinite(table.held_out_error) else None,
        "num_steps": table.num_steps,
        "exactness": table.exactness,
    }


def _cost_table(value: Mapping[str, Any]) -> CostTable:
    known = with_all_calls(value["coefficients"])
    coefficients = {name: _number(known[name], name) for name in WORK_NAMES}
    if min(coefficients.values()) < 0 or not 0 < sum(coefficients.values()) <= MAX_COEFFICIENT_S:
        raise ValueError(f"costs must not be negative, nor all zero, nor above {MAX_COEFFICIENT_S:g} s")
    error = value["held_out_error"]
    return CostTable(
        coefficients=coefficients,
        compression=_text(value["compression"], "compression"),
        machine=_text(value["machine"], "machine"),
        held_out_error=math.nan if error is None else _number(error, "held_out_error"),
        num_steps=_integer(value["num_steps"], "num_steps"),
        exactness=_text(value.get("exactness", "token"), "exactness"),
    )
