"""A set of trained exits: `exits.safetensors` (16 bits) and `config.json`, and the model that it belongs to.

Never a pickle. The set is named by the checksum of its weights; a controller and a log name the set that they read.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from transformers import PreTrainedModel

from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.model.exit_modules import ExitModule, ExitSet, ExitShape
from specbound.exits.card import exits_card
from specbound.models.fingerprint import model_fingerprint
from specbound.models.loading import LoadedModel
from specbound.results.files import write_whole
from specbound_controller.draft_vocabulary import DraftVocabulary
from specbound_controller.errors import InputError
from specbound_controller.fingerprint import same_model
from specbound_controller.text_files import read_json

WEIGHTS_FILE, CONFIG_FILE, CARD_FILE = "exits.safetensors", "config.json", "README.md"
SCHEMA = 1
VOCABULARY = "draft_vocabulary"
"""Name of the draft vocabulary's ids among the weights."""
NAME_DIGITS = 16
"""Of the weights' checksum, that a set is named by."""
KEPT_DTYPE = torch.float16
"""Of the weights on disk."""


@dataclass(frozen=True, slots=True)
class ExitsConfig:
    """Everything about a set but its weights."""

    model_fingerprint: str
    num_layers: int
    """Of the model."""
    vocab_size: int
    exit_layers: tuple[int, ...]
    """Shallow to deep, each in [1, L - 1]."""
    shape: ExitShape
    training: Mapping[str, Any] = field(default_factory=dict)
    """What it was trained on and what it reached: names and figures for a reader."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Library -> version it was trained with."""

    def __post_init__(self) -> None:
        layers = self.exit_layers
        if not layers or list(layers) != sorted(set(layers)) or not 1 <= layers[0] <= layers[-1] < self.num_layers:
            raise ValueError(f"exit_layers must ascend within [1, {self.num_layers - 1}], got {layers}")


class TrainedExits:
    """Trained exits of one model, whose parameters they leave alone.

    Example:
        >>> exits = TrainedExits.from_pretrained("runs/exits")
        >>> decoder = SpecBoundDecoder(model, policy=StaticPolicy((2,), threshold=0.5), exits=exits)
    """

    def __init__(self, config: ExitsConfig, modules: Mapping[int, ExitModule], vocabulary_ids: np.ndarray) -> None:
        """A new set.

        modules: exit layer -> its module. vocabulary_ids: tokens that they draft, ascending int64 (N,).
        """
        self.config = config
        self._weights = save(_tensors(modules, vocabulary_ids))
        self.set = _exit_set(config, load(self._weights), self.name)

    @property
    def name(self) -> str:
        """What a controller and a log call the set."""
        return self.checksum[:NAME_DIGITS]

    @property
    def checksum(self) -> str:
        """sha256 of the weights as a file, which `config.json` names."""
        return hashlib.sha256(self._weights).hexdigest()

    @property
    def vocabulary(self) -> DraftVocabulary:
        """The tokens that the exits draft, with the name of the set: what `Decision.draft_vocabulary` asks for."""
        return self.set.vocabulary

    @property
    def exit_layers(self) -> tuple[int, ...]:
        return self.config.exit_layers

    def for_model(self, model: PreTrainedModel) -> ExitSet:
        """The modules, for a decoder. Raises InputError where they were trained for another model."""
        config = self.config
        num_layers = getattr(model.config.get_text_config(), "num_hidden_layers", config.num_layers)
        if num_layers != config.num_layers:
            raise InputError(
                f"exits {self.name} were trained for a model of {config.num_layers} layers, got one of {num_layers}; "
                "train exits for this model with specbound train-exits"
            )
        found = model_fingerprint(model)
        if not same_model(found, config.model_fingerprint):
            raise InputError(
                f"exits {self.name} were trained for the model with fingerprint {config.model_fingerprint[:16]}, "
                f"got {found[:16]}; train exits for this model with specbound train-exits"
            )
        return self.set

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes the weights (16 bits), the config and a model card; each appears whole or not at all.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        content = {"schema": SCHEMA, "weights_sha256": self.checksum, **asdict(self.config)}
        write_whole(folder / WEIGHTS_FILE, self._weights)
        write_whole(folder / CONFIG_FILE, (json.dumps(content, indent=1, default=dict) + "\n").encode())
        write_whole(folder / CARD_FILE, exits_card(self.config.exit_layers, content, len(self.vocabulary)).encode())

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str]) -> "TrainedExits":
        """What `save_pretrained` wrote: a folder, or OWNER/NAME on the Hugging Face Hub.

        Raises:
            InputError: a file is missing, damaged, of another version, or no set of exits; one line says which.
        """
        from specbound.exits.hub import exits_folder

        folder = exits_folder(str(name))
        config, checksum = _read_config(folder / CONFIG_FILE)
        path = folder / WEIGHTS_FILE
        try:
            weights = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None
        if hashlib.sha256(weights).hexdigest() != checksum:
            raise InputError(f"{path} is not the file that {CONFIG_FILE} names: it is damaged, or of another set")
        self = cls.__new__(cls)
        self.config, self._weights = config, weights
        try:
            self.set = _exit_set(config, load(weights), self.name)
        except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise InputError(f"{path} holds no exits of {CONFIG_FILE}: {' '.join(str(error).split())[:300]}") from None
        return self


def with_exits(loaded: LoadedModel, name: str | None) -> LoadedModel:
    """A model whose decoders read trained exits. name: as `from_pretrained` takes it; None is none

    Raises:
        InputError: there are no exits of that name, or they are another model's.
    """
    if name is None:
        return loaded
    exits = TrainedExits.from_pretrained(name)
    exits.for_model(loaded.model)
    return replace(loaded, exits=exits)


def new_adapter(loaded: LoadedModel) -> ModelAdapter:
    """Runs a model, with its trained exits where it has any."""
    return ModelAdapter(loaded.model, None if loaded.exits is None else loaded.exits.for_model(loaded.model))


def _tensors(modules: Mapping[int, ExitModule], vocabulary_ids: np.ndarray) -> dict[str, Tensor]:
    tensors = {VOCABULARY: torch.from_numpy(vocabulary_ids.astype(np.int64))}
    for layer, module in sorted(modules.items()):
        for name, tensor in module.state_dict().items():
            tensors[f"exit_{layer}.{name}"] = tensor.detach().cpu().to(KEPT_DTYPE).contiguous()
    return tensors


def _exit_set(config: ExitsConfig, tensors: Mapping[str, Tensor], name: str) -> ExitSet:
    """Raises ValueError, KeyError or RuntimeError where the tensors are not those of the config."""
    modules = {}
    for layer in config.exit_layers:
        module, prefix = ExitModule(config.shape), f"exit_{layer}."
        own = {key.removeprefix(prefix): t.float() for key, t in tensors.items() if key.startswith(prefix)}
        module.load_state_dict(own)
        if not all(bool(t.isfinite().all()) for t in own.values()):
            raise ValueError(f"weights of exit {layer} must be finite numbers")
        modules[layer] = module.eval().requires_grad_(False)
    ids = tensors[VOCABULARY].numpy()
    if ids[-1] >= config.vocab_size:
        raise ValueError(f"draft_vocabulary must hold ids below {config.vocab_size}, got {ids[-1]}")
    return ExitSet(config.shape, modules, DraftVocabulary(ids, name))


def _read_config(path: Path) -> tuple[ExitsConfig, str]:
    """The config, and the checksum of its weights."""
    if not path.exists():
        raise InputError(f"exits must be a folder that specbound train-exits wrote, got {path.parent} (no {path.name})")
    content = read_json(path)
    if not isinstance(content, dict) or "shape" not in content or "weights_sha256" not in content:
        raise InputError(f"{path} is not the config of trained exits")
    if content.pop("schema", None) != SCHEMA:
        raise InputError(
            f"{path}: schema must be {SCHEMA}; train the exits again, or install the version that wrote it"
        )
    checksum = content.pop("weights_sha256")
    try:
        shape = ExitShape(**content.pop("shape"))
        return ExitsConfig(shape=shape, **content | {"exit_layers": tuple(content["exit_layers"])}), str(checksum)
    except (TypeError, ValueError, KeyError) as error:
        raise InputError(f"{path} is not the config of trained exits: {error}") from None
