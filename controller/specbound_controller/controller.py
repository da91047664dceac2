"""The trained controller: exit score, step policy and what belongs to them, stored as safetensors and JSON.

Knows no model: it is told a fingerprint and a number of layers to compare with its own.
"""

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from specbound_controller.compression import COMPRESSIONS
from specbound_controller.config import ControllerConfig
from specbound_controller.controller_policy import ControllerPolicy
from specbound_controller.costs import CostTable
from specbound_controller.draft_vocabulary import DraftVocabulary, describe
from specbound_controller.errors import InputError
from specbound_controller.features import FEATURE_NAMES
from specbound_controller.fingerprint import same_model
from specbound_controller.mlp import Mlp
from specbound_controller.score import SIGNAL_NAMES, LearnedScore
from specbound_controller.step_policy import StepPolicy, solve_rho
from specbound_controller.text_files import decoded
from specbound_controller.trees.node_score import NodeScore

WEIGHTS_FILE = "controller.safetensors"
CONFIG_FILE = "config.json"
DRAFT_VOCABULARY = "draft_vocabulary"
EXITS = "draft_vocabulary.exits"
"""Array of the bytes of the trained exits' name."""
"""Array of the weights file; where there is none, exits read all tokens."""
MAX_SAMPLE_ROWS = 5000
"""Most rows of the sample that a controller carries."""

MAX_VALUE = 1e9
"""Largest weight of a network and value of the sample: with larger ones float32 arithmetic could overflow."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Steps of the training prompts, from which the long-run speed is solved again for any cost table.

    Holds the features only: expected tokens and work of every action follow from them by the step policy.
    """

    features: np.ndarray
    """(R, F) float32"""
    weights: np.ndarray
    """How many steps each row stands for. (R,) float32"""

    def __post_init__(self) -> None:
        num_rows = len(self.features)
        if not 1 <= num_rows <= MAX_SAMPLE_ROWS or self.features.shape != (num_rows, len(FEATURE_NAMES)):
            raise ValueError(
                f"sample features must be 1 to {MAX_SAMPLE_ROWS} rows of {len(FEATURE_NAMES)}, "
                f"got shape {self.features.shape}"
            )
        if self.weights.shape != (num_rows,) or not (self.weights > 0).all():
            raise ValueError(f"sample weights must be {num_rows} positive numbers")
        for name, array in (("features", self.features), ("weights", self.weights)):
            if array.dtype != np.float32 or not (np.abs(array) <= MAX_VALUE).all():
                raise ValueError(f"sample {name} must be float32 and within {MAX_VALUE:g}")

    @property
    def context_lengths(self) -> np.ndarray:
        """Committed tokens before each step. (R,) float64"""
        logs = self.features[:, FEATURE_NAMES.index("log_context_length")]
        lengths: np.ndarray = np.expm1(np.clip(logs.astype(np.float64), 0.0, 20.0))
        return lengths


@dataclass(frozen=True, slots=True, eq=False)
class Controller:
    """Two tiny perceptrons, the action grid, and a sample of steps; immutable."""

    config: ControllerConfig
    score_mlp: Mlp
    """Perceptron of the exit score, before calibration."""
    step_mlp: Mlp
    """Perceptron of the step policy."""
    sample: Sample
    draft_vocabulary: DraftVocabulary | None = None
    """Tokens that the exits read and draft, those of the log it was trained on; None is all. Its decisions say so."""
    node_mlp: Mlp | None = None
    """Perceptron of the score of tree nodes, before calibration, where the config says how its trees grow."""
    score: LearnedScore = field(init=False)
    """The calibrated exit score."""
    step_policy: StepPolicy = field(init=False)
    """The step policy on the action grid."""
    node_score: NodeScore | None = field(init=False)
    """The calibrated score of tree nodes; None where it was trained without trees."""

    def __post_init__(self) -> None:
        config = self.config
        networks = {"score": self.score_mlp, "step": self.step_mlp}
        if self.node_mlp is not None:
            networks["nodes"] = self.node_mlp
        if (config.trees is None) != (self.node_mlp is None):
            raise ValueError("the nodes network must be there exactly where the config holds trees")
        for name, mlp in networks.items():
            if any((np.abs(array) > MAX_VALUE).any() for array in mlp.arrays("").values()):
                raise ValueError(f"weights of the {name} network must be within {MAX_VALUE:g}")
            if (
                name != "nodes"
                and config.without_compression
                and mlp.weight1[:, is_feature(mlp.num_inputs, "compression_")].any()
            ):
                raise ValueError(f"the {name} network must not look at the compression level, as the config says")
        score = LearnedScore(self.score_mlp, config.exit_layers, config.slopes, config.offsets)
        object.__setattr__(self, "score", score)
        object.__setattr__(self, "step_policy", StepPolicy(self.step_mlp, config.actions, self.reads_full_signals))
        nodes = None if config.trees is None or self.node_mlp is None else config.trees.score(self.node_mlp)
        object.__setattr__(self, "node_score", nodes)

    @property
    def reads_full_signals(self) -> bool:
        """Whether a network looks at the full model's signals: steps take them only then."""
        return any(
            bool(mlp.weight1[:, is_feature(mlp.num_inputs, "full_", "has_full_")].any())
            for mlp in (self.score_mlp, self.step_mlp)
        )

    def check_model(self, fingerprint: str, num_layers: int) -> None:
        """Raises InputError, naming both values, where the model is not the one it was trained for."""
        if num_layers != self.config.num_layers:
            raise InputError(
                f"the controller was trained for a model of {self.config.num_layers} layers, got one of {num_layers}; "
                "profile this model and train a controller for it"
            )
        if not same_model(fingerprint, self.config.model_fingerprint):
            raise InputError(
                f"the controller was trained for the model with fingerprint {self.config.model_fingerprint[:16]}, "
                f"got {fingerprint[:16]}; profile this model and train a controller for it"
            )

    def check_draft_vocabulary(self, vocabulary: DraftVocabulary | None) -> None:
        """Raises InputError where a log's exits read other tokens than those that its scores were fitted on."""
        if vocabulary != self.draft_vocabulary:
            raise InputError(
                f"the controller was trained on exits that read {describe(self.draft_vocabulary)}, got a log of "
                f"{describe(vocabulary)}; train a controller on this log"
            )

    def level_used(self, compression: str) -> str:
        """The compression level that stands in for the given one: itself where trained on. Warns where not."""
        if compression in self.config.compressions:
            return compression
        if compression not in COMPRESSIONS:
            raise InputError(f"compression must be one of {', '.join(COMPRESSIONS)}, got {compression!r}")
        used = self.config.compressions[0]
        logger.warning(
            "the controller was not trained on compression %s (only on %s); it decides as for %s",
            compression,
            ", ".join(self.config.compressions),
            used,
        )
        return used

    def plays_trees(self, compression: str) -> bool:
        """Whether training found its draft trees faster than its chains at a level, or at the one that stands in."""
        trees, levels = self.config.trees, self.config.compressions
        return trees is not None and (compression if compression in levels else levels[0]) in trees.played

    def as_if(self, compression: str, used: str) -> "Controller":
        """The same controller, for features that say `compression`, deciding as if they said `used`."""
        if compression == used:
            return self
        change = np.zeros(len(FEATURE_NAMES), dtype=np.float32)
        change[FEATURE_NAMES.index(f"compression_{compression}")] = -1.0
        change[FEATURE_NAMES.index(f"compression_{used}")] = 1.0
        before = np.zeros(len(SIGNAL_NAMES) + len(self.config.exit_layers), dtype=np.float32)
        score_mlp = self.score_mlp.shifted(np.concatenate((before, change)))
        return replace(self, score_mlp=score_mlp, step_mlp=self.step_mlp.shifted(change))

    def solve_rho(self, costs: CostTable, compression: str) -> float:
        """Long-run tokens per second of the step policy on the sample's steps of one level, at these costs."""
        is_level = self.sample.features[:, FEATURE_NAMES.index(f"compression_{compression}")] > 0.5
        chosen = is_level if is_level.any() else np.ones_like(is_level)
        emitted, seconds = self.step_policy.table(
            self.sample.features[chosen], self.sample.context_lengths[chosen], costs, self.config.num_layers
        )
        return solve_rho(emitted, seconds, self.sample.weights[chosen].astype(np.float64))

    def policy(self, costs: CostTable, compression: str, guard: bool = True) -> ControllerPolicy:
        """The policy for one machine's costs and one compression level.

        Args:
            costs: Measured where the policy will run; the controller itself knows no costs.
            compression: Level of the model that decodes. One it was not trained on is a logged warning.
            guard: Whether to fall back to plain decoding where speculation does not pay.
        """
        used = self.level_used(compression)
        return ControllerPolicy(self.as_if(compression, used), used, costs, self.solve_rho(costs, used), guard)

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes `controller.safetensors` and `config.json`; each appears whole or not at all."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        text = self.config.to_json(self.checksum)
        for name, content in ((WEIGHTS_FILE, self._weights()), (CONFIG_FILE, text.encode())):
            partial = folder / f"{name}.partial"
            partial.write_bytes(content)
            os.replace(partial, folder / name)

    @property
    def checksum(self) -> str:
        """sha256 of the weights as a file, which `config.json` names."""
        return hashlib.sha256(self._weights()).hexdigest()

    def _weights(self) -> bytes:
        return save_arrays({name: np.ascontiguousarray(array) for name, array in self._arrays().items()})

    def _arrays(self) -> dict[str, np.ndarray]:
        """What the weights file holds."""
        arrays = {
            **self.score_mlp.arrays("score"),
            **self.step_mlp.arrays("step"),
            "sample.features": self.sample.features,
            "sample.weights": self.sample.weights,
        }
        if self.node_mlp is not None:
            arrays |= self.node_mlp.arrays("nodes")
        if self.draft_vocabulary is not None:
            arrays[DRAFT_VOCABULARY] = self.draft_vocabulary.ids
            if self.draft_vocabulary.exits:
                arrays[EXITS] = np.frombuffer(self.draft_vocabulary.exits.encode(), dtype=np.uint8)
        return arrays

    @staticmethod
    def load(directory: str | os.PathLike[str]) -> "Controller":
        """Reads what `save` wrote.

        Raises:
            InputError: a file is missing, damaged, of another version or not a controller's; one line says which.
        """
        folder = Path(directory)
        weights, text = (_read(folder, name) for name in (WEIGHTS_FILE, CONFIG_FILE))
        try:
            config, sha256 = ControllerConfig.from_json(decoded(text, CONFIG_FILE))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise InputError(f"{folder / CONFIG_FILE} is not a controller's config: {_reason(error)}") from error
        try:
            if hashlib.sha256(weights).hexdigest() != sha256:
                raise ValueError(f"its sha256 is not the one that {CONFIG_FILE} names; copy both files again")
            arrays = load_arrays(weights)
            controller = Controller(
                config,
                Mlp.from_arrays(arrays, "score"),
                Mlp.from_arrays(arrays, "step"),
                Sample(arrays["sample.features"], arrays["sample.weights"]),
                _vocabulary(arrays),
                None if config.trees is None else Mlp.from_arrays(arrays, "nodes"),
            )
            unknown = sorted(arrays.keys() - controller._arrays().keys())
            if unknown:
                raise ValueError(f"unknown array {unknown[0][:40]!r}")
            return controller
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder / WEIGHTS_FILE} holds no weights for this config: {_reason(error)}") from error


def _vocabulary(arrays: Mapping[str, np.ndarray]) -> DraftVocabulary | None:
    """What its exits read, and the name of the trained ones."""
    if DRAFT_VOCABULARY not in arrays:
        return None
    exits = bytes(arrays[EXITS]).decode() if EXITS in arrays else ""
    return DraftVocabulary(arrays[DRAFT_VOCABULARY], exits)


def is_feature(num_inputs: int, *beginnings: str) -> np.ndarray:
    """Which inputs of a network, whose last ones are the step features, are those with such names. (I,) bool"""
    is_named = [name.startswith(beginnings) for name in FEATURE_NAMES]
    return np.array([False] * (num_inputs - len(is_named)) + is_named)


def _read(folder: Path, name: str) -> bytes:
    if not folder.is_dir():
        raise InputError(f"controller must be a directory with {WEIGHTS_FILE} and {CONFIG_FILE}, got {folder}")
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise InputError(f"controller file {folder / name} cannot be read: {error.strerror}") from error


def _reason(error: Exception) -> str:
    """The error in one line."""
    text = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error) or type(error).__name__
    return " ".join(text.split())[:300]
