"""What a controller says of its trees beside the weights of their score: calibration, and how they grow by level."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any

from specbound_controller.mlp import Mlp
from specbound_controller.trees.node_features import input_names
from specbound_controller.trees.node_score import NodeScore
from specbound_controller.trees.settings import TreeSettings


@dataclass(frozen=True, slots=True)
class LearnedTrees:
    """Trees whose nodes are chosen by a learned score."""

    sources: tuple[str, ...]
    """Sources whose candidates the score knows."""
    slopes: tuple[float, ...]
    """Calibration of the score, for each source."""
    offsets: tuple[float, ...]
    """Calibration: offset added after it, for each source."""
    growth: Mapping[str, TreeSettings]
    """By compression level: bounds, and the speed at which nodes must pay."""
    played: tuple[str, ...]
    """Compression levels at which trees were faster than chains on the validation prompts: there the controller plays
    them."""

    def __post_init__(self) -> None:
        if any(not abs(value) <= 1e6 for value in (*self.slopes, *self.offsets)):
            raise ValueError("slopes and offsets of trees must be within 1e6")
        if not self.growth or not set(self.played) <= set(self.growth):
            raise ValueError(f"trees must be played at levels that they grow at, got {self.played}")
        if any(settings.growth != "best_first" for settings in self.growth.values()):
            raise ValueError("trees of a learned score must grow best_first")

    def score(self, mlp: Mlp) -> NodeScore:
        """The calibrated score. mlp: its network"""
        return NodeScore(mlp, self.sources, self.slopes, self.offsets)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the names of the score's inputs."""
        return {**asdict(self), "inputs": input_names(self.sources)}

    @staticmethod
    def from_dict(content: Mapping[str, Any]) -> "LearnedTrees":
        """The inverse. Raises ValueError, TypeError or KeyError, with the reason, where it is none."""
        names = {field.name for field in fields(LearnedTrees)} | {"inputs"}
        if set(content) != names:
            raise ValueError(f"trees must have the keys {', '.join(sorted(names))}, got {', '.join(sorted(content))}")
        sources = tuple(map(str, content["sources"]))
        trees = LearnedTrees(
            sources,
            _numbers(content["slopes"]),
            _numbers(content["offsets"]),
            {level: _settings(values) for level, values in content["growth"].items()},
            tuple(map(str, content["played"])),
        )
        if tuple(content["inputs"]) != input_names(sources):
            raise ValueError("inputs of trees must be those of this version of specbound; train the controller again")
        return trees


def _numbers(values: Any) -> tuple[float, ...]:
    if not all(isinstance(value, int | float) and isfinite(value) for value in values):
        raise ValueError(f"slopes and offsets of trees must be finite numbers, got {values}")
    return tuple(map(float, values))


def _settings(values: Mapping[str, Any]) -> TreeSettings:
    shape = tuple(tuple(map(int, row)) for row in values["shape"])
    whole = {name: values[name] for name in ("max_nodes", "breadth", "max_depth", "beam")}
    if not all(isinstance(value, int) and value < 10**6 for value in whole.values()) or not isfinite(values["speedup"]):
        raise ValueError(f"growth of trees must be whole numbers and a speed, got {dict(values)}")
    return TreeSettings(str(values["growth"]), shape=shape, speedup=float(values["speedup"]), **whole)
