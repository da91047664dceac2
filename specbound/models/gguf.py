"""GGUF files as models: config, tokenizer and weights of one file, read by transformers, the weights dequantised.

Knows no compression level: `GgufModel.build` takes the options of `from_pretrained`, as any checkpoint does.
"""

import importlib.util
import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    modeling_gguf_pytorch_utils,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from specbound_controller.errors import InputError, MissingExtraError

MAGIC = b"GGUF"
DAMAGE = (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError, struct.error)
"""What the readers raise at a file that ends early or holds nonsense."""


@dataclass(frozen=True, slots=True)
class GgufModel:
    """What a file holds, in memory."""

    model_class: type[PreTrainedModel]
    config: Any
    weights: dict[str, Tensor]
    """By transformers' names, float32."""
    tokenizer: PreTrainedTokenizerBase

    def build(self, **options: Any) -> PreTrainedModel:
        """A model of these weights. options: those of `from_pretrained`, such as dtype and quantization_config."""
        return self.model_class.from_pretrained(None, config=self.config, state_dict=dict(self.weights), **options)

    def save(self, folder: Path) -> None:
        """Writes an ordinary checkpoint in float32, with its tokenizer; whole or not at all.

        Raises:
            InputError: the folder exists, or cannot be written.
        """
        if folder.exists():
            raise InputError(f"folder must be one that does not exist yet, got {folder}")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
            try:
                self.build(dtype=torch.float32).save_pretrained(partial)
                self.tokenizer.save_pretrained(partial)
                partial.chmod(0o755)
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        except (OSError, SafetensorError) as error:
            raise InputError(f"folder {folder} cannot be written: {_first_line(error)}") from error


def gguf_path(name: str) -> Path:
    """The file on this disk: a path, or OWNER/REPOSITORY/FILE.gguf of the Hub, fetched where it was not before.

    Raises:
        InputError: there is none.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    parts = name.split("/")
    if len(parts) < 3 or name[0] in ".~/" or Path(parts[0]).exists():
        raise InputError(f"model path {name!r} does not exist")
    repository, file = "/".join(parts[:2]), "/".join(parts[2:])
    try:
        return Path(hf_hub_download(repository, file))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        offline = "; HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else ""
        raise InputError(f"model {name!r} cannot be fetched from the Hub: {_first_line(error)}{offline}") from error


def read_gguf(path: Path, name: str) -> GgufModel:
    """Reads a file whole and dequantises its weights.

    Args:
        name: what the user called it, for errors.

    Raises:
        InputError: not a GGUF file, of an architecture that transformers does not read, no causal language model, or
            damaged.
        MissingExtraError: the packages for it are not installed.
    """
    _require_readable(path, name)
    place = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    with _one_line_errors(name), quiet_conversion():
        config = AutoConfig.from_pretrained(**place)
        if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            raise InputError(f"model {name!r} must be a causal language model, got {config.model_type}")
        options = (
            {}
            if not hasattr(transformers, "GgufConfig")
            else {"quantization_config": transformers.GgufConfig(dequantize=True)}
        )
        model, info = AutoModelForCausalLM.from_pretrained(
            **place, config=config, dtype=torch.float32, output_loading_info=True, **options
        )
        tokenizer = AutoTokenizer.from_pretrained(**place)
    if info["missing_keys"]:
        absent = sorted(info["missing_keys"])
        raise InputError(f"model {name!r} is not whole: {len(absent)} weights are missing, {absent[0]} among them")
    return GgufModel(type(model), _plain_config(model), model.state_dict(), tokenizer)


@contextmanager
def quiet_conversion() -> Iterator[None]:
    """transformers' bar over the tensors of a file is drawn on terminals only: in a log it is a hundred lines."""
    bar = getattr(modeling_gguf_pytorch_utils, "tqdm", None)
    if bar is None:  # another version: it is drawn
        yield
        return
    modeling_gguf_pytorch_utils.tqdm = partial(bar, disable=None)
    try:
        yield
    finally:
        modeling_gguf_pytorch_utils.tqdm = bar


def read_gguf_tokenizer(path: Path, name: str) -> PreTrainedTokenizerBase:
    """The tokenizer that a file holds. Raises what `read_gguf` raises."""
    _require_readable(path, name)
    with _one_line_errors(name):
        return AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)


def _require_readable(path: Path, name: str) -> None:
    """Raises InputError for another kind of file, MissingExtraError where the packages for it are not installed."""
    try:
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
    except OSError as error:
        raise InputError(f"model {name!r} cannot be read: {error.strerror}") from error
    if magic != MAGIC:
        raise InputError(f"model {name!r} is not a GGUF file: it begins with {magic!r}, not {MAGIC!r}")
    if any(importlib.util.find_spec(package) is None for package in ("gguf", "accelerate")):
        raise MissingExtraError(f"the GGUF file {name}", "gguf")


def _plain_config(model: PreTrainedModel) -> Any:
    """The model's config without what says that it was read from a GGUF file: it is an ordinary model now."""
    values = model.config.to_dict()
    values.pop("quantization_config", None)
    config = type(model.config).from_dict(values)
    config.architectures = [type(model).__name__]
    return config


@contextmanager
def _one_line_errors(name: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except (*DAMAGE, OSError, NotImplementedError, RuntimeError) as error:
        text = _first_line(error)
        is_known = "not supported" in text or "nknown" in text
        reason = text if is_known else f"the file is damaged or not complete ({text})"
        raise InputError(f"model {name!r} cannot be loaded: {reason}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
