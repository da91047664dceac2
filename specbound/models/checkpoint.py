"""What a checkpoint really holds: the level that it was quantised at, weights that fit the model, finite numbers.

Transformers fills what is missing with random numbers and says so at a level that nobody sees. Loads no model.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from specbound_controller.errors import InputError

NUM_NAMED = 3
"""Weights that a message names; the others are counted."""
QUANTISED_LAYERS = ("Linear8bitLt", "Linear4bit")
"""Classes of bitsandbytes."""
LFS_POINTER = b"version https://git-lfs"
"""How the text file begins that git leaves in place of a large file."""
LARGE_FILES = ("*.safetensors", "*.bin", "tokenizer.json", "*.model")
"""Files of a model's folder that git-lfs keeps elsewhere."""


def held_level(config: PreTrainedConfig, name: str) -> str | None:
    """The compression level at which the checkpoint was quantised before it was saved; None where it was not.

    Raises:
        InputError: it was quantised by a method, or at a level, that specbound does not know.
    """
    found = getattr(config, "quantization_config", None)
    if found is None:
        found = getattr(config.get_text_config(decoder=True), "quantization_config", None)
    if found is None:
        return None
    settings: Mapping[str, Any] = found if isinstance(found, Mapping) else found.to_dict()
    if settings.get("load_in_8bit"):
        return "int8"
    if settings.get("load_in_4bit"):
        kind = settings.get("bnb_4bit_quant_type", "fp4")
        if kind == "nf4":
            return "nf4"
        raise InputError(_refusal(name, f"bitsandbytes {kind}"))
    raise InputError(_refusal(name, str(settings.get("quant_method", "a method that its config.json does not name"))))


def _refusal(name: str, method: str) -> str:
    return (
        f"model {name!r} was quantised before it was saved, with {method}; specbound decodes float weights, and those "
        "of bitsandbytes int8 and nf4: take the model that it was made from, and --compression int8 or nf4"
    )


def refuse_other_level(held: str | None, compression: str, name: str) -> None:
    """Raises InputError where another level is asked for than the one that the checkpoint was quantised at."""
    if held is not None and held != compression:
        raise InputError(
            f"model {name!r} was quantised to {held} before it was saved, so compression must be {held}, "
            f"got {compression!r}"
        )


def refuse_other_form(model: PreTrainedModel, held: str | None, name: str) -> None:
    """Raises InputError where the config says that the checkpoint was quantised, and its weights are not in that form.

    held: what `held_level` says.
    """
    if held is None:
        return
    layers = {key: m for key, m in model.named_modules() if type(m).__name__ in QUANTISED_LAYERS}
    wrong = [key for key, layer in layers.items() if _form(layer) != held]
    if wrong or not layers:
        raise InputError(
            f"model {name!r} has a config.json that says it was quantised to {held}, but its weights were not: "
            f"{listed(wrong) or 'none of them'}"
        )


def _form(layer: torch.nn.Module) -> str | None:
    """The level at which a layer of bitsandbytes holds its weight; None where the weight was left as it is."""
    weight = layer.weight
    kind = getattr(getattr(weight, "quant_state", None), "quant_type", None)
    return "int8" if getattr(weight, "SCB", None) is not None else kind


def refuse_other_weights(model: PreTrainedModel, info: Mapping[str, Any], name: str) -> list[str]:
    """Checks what transformers says of a load; returns the weights that belong to no module of the model, sorted.

    Args:
        info: `output_loading_info` of `from_pretrained`.

    Raises:
        InputError: weights are missing, of another shape, or stand beside those of a module that cannot hold them (a
            scale or a bias: then the weight alone means something else).
    """
    if info["mismatched_keys"]:
        shapes = sorted(f"{key} {tuple(there)} for {tuple(wanted)}" for key, there, wanted in info["mismatched_keys"])
        raise InputError(f"model {name!r} has weights of another shape than its config.json says: {listed(shapes)}")
    if info["missing_keys"]:
        raise InputError(f"model {name!r} lacks weights that its config.json asks for: {listed(info['missing_keys'])}")
    modules = dict(model.named_modules())
    unexpected = sorted(info["unexpected_keys"])
    beside = [key for key in unexpected if _holds_a_weight(modules.get(key.rpartition(".")[0]))]
    if beside:
        raise InputError(
            f"model {name!r} has weights that its config.json has no place for, beside others that need them: "
            f"{listed(beside)}"
        )
    return unexpected


class _Unconverted(logging.Handler):
    """Keeps the weights that transformers could not put together from those of the checkpoint: of them it says only in
    a report on its logger, such as experts of which one is missing."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.names: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        rows = (line.split("|") for line in record.getMessage().splitlines())
        self.names += [row[0].strip() for row in rows if len(row) > 1 and "CONVERSION" in row[1]]


@contextmanager
def naming_unconverted(name: str) -> Iterator[None]:
    """Names those weights in the error, and keeps the report from standard error."""
    spoken, handler = logging.getLogger("transformers.modeling_utils"), _Unconverted()
    level, propagate, others = spoken.level, spoken.propagate, spoken.handlers
    spoken.setLevel(logging.WARNING - 1)  # at WARNING itself transformers checks and prints more
    spoken.handlers, spoken.propagate = [handler], False
    try:
        yield
    except RuntimeError as error:
        if not handler.names:
            raise
        raise InputError(
            f"model {name!r} lacks parts of weights that its config.json asks for, or has them in another shape: "
            f"{listed(handler.names)}"
        ) from error
    finally:
        spoken.setLevel(level)
        spoken.handlers, spoken.propagate = others, propagate


def _holds_a_weight(module: torch.nn.Module | None) -> bool:
    return module is not None and isinstance(getattr(module, "weight", None), Tensor)


def listed(names: Iterable[str]) -> str:
    """The first of them, and how many there are besides."""
    found = sorted(names)
    rest = len(found) - NUM_NAMED
    return ", ".join(found[:NUM_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def refuse_not_finite(model: PreTrainedModel, compression: str, name: str) -> None:
    """Raises InputError that names the weights which hold NaN or infinity: every output would be made of them."""
    bad = [weight for weight, values in _numbers(model) if not _is_finite(values)]
    if bad:
        raise InputError(
            f"model {name!r} holds weights that are not finite at compression {compression}: {listed(bad)}"
        )


def is_untied(model: PreTrainedModel) -> bool:
    """Whether the checkpoint brought a head of its own although the config ties it to the embedding."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    is_said = getattr(model.config.get_text_config(decoder=True), "tie_word_embeddings", False)
    return bool(is_said) and head is not None and head.weight is not embedding.weight


def _numbers(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers that are floats, and the scales of those that are quantised."""
    for name, values in (*model.named_parameters(), *model.named_buffers()):
        state = getattr(values, "quant_state", None)
        numbers = getattr(values, "SCB", None) if state is None else state.absmax
        numbers = values if numbers is None else numbers
        if numbers.is_floating_point():
            yield name, numbers


def _is_finite(values: Tensor) -> bool:
    """Without a tensor of truth values as large as the weights."""
    if values.numel() == 0 or values.device.type == "meta":
        return True
    return bool(torch.isfinite(torch.stack(torch.aminmax(values.detach()))).all())


def refuse_unfetched(folder: Path, name: str) -> None:
    """Raises InputError where a file of a model's folder is the pointer that git leaves without git-lfs."""
    for path in sorted({path for pattern in LARGE_FILES for path in folder.glob(pattern)}):
        try:
            with path.open("rb") as file:
                start = file.read(len(LFS_POINTER))
        except OSError as error:
            raise InputError(f"model {name!r} cannot be loaded: {path.name} cannot be read: {error.strerror}") from None
        if start == LFS_POINTER:
            raise InputError(f"model {name!r} is not fetched: {path.name} is a pointer of git-lfs; run git lfs pull")


def damaged_file(folder: Path) -> str:
    """The first file of weights that cannot be opened, or an index that is none, with a colon; empty where all can."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                continue
        except (SafetensorError, OSError, ValueError):
            return f"{path.name}: "
    for path in sorted(folder.glob("*.index.json")):
        try:
            is_index = isinstance(json.loads(path.read_bytes())["weight_map"], dict)
        except (OSError, ValueError, KeyError, TypeError):
            is_index = False
        if not is_index:
            return f"{path.name}: "
    return ""
