"""Which models are run, and which are refused with the reason: the table of families, and where each keeps its parts.

A new family is one entry of `FAMILIES`. Knows configs and the names of modules; runs nothing.
"""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from specbound_controller.errors import UnsupportedModelError

# L layers


@dataclass(frozen=True, slots=True)
class Family:
    """Where one family keeps its parts; the defaults are Llama's."""

    layers: str = "layers"
    final_norm: str = "norm"
    cache_argument: str = "past_key_values"
    positions: str = "rotary"
    """`rotary`, `rotary_by_kind` (one table per kind of layer), `wpe` (GPT-2) or `offset` (OPT)."""
    is_cut_by_config: bool = True
    """Whether transformers runs the first `config.num_hidden_layers` layers, or all there are."""
    is_lean: bool = False
    """Whether its layers have the very shape of Llama's, so that a CPU can run them straight from their parameters
    (`lean`). It is faster, never needed."""


FAMILIES = {
    "llama": Family(is_lean=True),
    "qwen2": Family(is_lean=True),
    "qwen3": Family(is_lean=True),
    "mistral": Family(is_lean=True),
    "gemma": Family(),
    "gemma2": Family(),
    "gemma3_text": Family(positions="rotary_by_kind"),
    "phi": Family(final_norm="final_layernorm"),
    "phi3": Family(),
    "stablelm": Family(is_cut_by_config=False),
    "olmo2": Family(),
    "gpt_neox": Family(final_norm="final_layer_norm", cache_argument="layer_past", is_cut_by_config=False),
    "gpt2": Family(layers="h", final_norm="ln_f", positions="wpe", is_cut_by_config=False),
    "opt": Family(final_norm="final_layer_norm", positions="offset", is_cut_by_config=False),
}
"""By the `model_type` of transformers' config."""
ATTENTION_IMPLEMENTATIONS = ("sdpa", "eager")
DYNAMIC_QUANTISATION = ("torch.ao.nn.quantized.dynamic", "torch.ao.nn.intrinsic.quantized.dynamic")
"""Packages of layers with one scale for all rows of a call."""
RANDOM_MODULES = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm, nn.RReLU, nn.MultiheadAttention)
"""Modules of torch that do something else in training mode."""
FULL, SLIDING = "full_attention", "sliding_attention"


def layer_kinds(config: object, num_layers: int) -> list[str]:
    """`full_attention` or `sliding_attention` for each layer. (L,)"""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return list(kinds)[:num_layers]
    return [SLIDING if getattr(config, "sliding_window", None) is not None else FULL] * num_layers


def name_of(model: nn.Module) -> str:
    """A model's class and, where it was loaded from somewhere, its name."""
    path = getattr(getattr(model, "config", None), "_name_or_path", "")
    return f"{type(model).__name__} ({path})" if path else type(model).__name__


def body_of(model: PreTrainedModel) -> Any:
    """The module that holds the layers, out of what `torch.compile` wraps around it."""
    body = model.get_decoder()
    while hasattr(body, "_orig_mod"):
        body = body._orig_mod
    return body


def num_layers_of(model: PreTrainedModel) -> int:
    """How many layers transformers runs: an owner may cut them off by the config alone."""
    body = body_of(model)
    family = FAMILIES[body.config.model_type]
    num_layers = len(getattr(body, family.layers))
    return min(num_layers, body.config.num_hidden_layers) if family.is_cut_by_config else num_layers


def refuse_unsupported(model: object) -> None:
    """Raises `UnsupportedModelError` with the reason unless the adapter runs this model exactly."""
    if not isinstance(model, PreTrainedModel):
        raise UnsupportedModelError(f"model must be a transformers PreTrainedModel, got {type(model).__name__}")
    name, config = name_of(model), model.config
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(f"{name} is an encoder-decoder model; specbound runs decoder-only models")
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds <= {FULL, SLIDING}:
        odd = ", ".join(sorted(kinds - {FULL, SLIDING}))
        raise UnsupportedModelError(f"{name} has layers of kind {odd}, whose state cannot be rolled back")
    if config.model_type not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise UnsupportedModelError(f"{name} is of type {config.model_type!r}; specbound runs {known}")
    if model.get_output_embeddings() is None:
        raise UnsupportedModelError(f"{name} has no language-model head; load it with AutoModelForCausalLM")
    if config._attn_implementation not in ATTENTION_IMPLEMENTATIONS:
        got = config._attn_implementation
        raise UnsupportedModelError(f"{name}: attn_implementation must be sdpa or eager, got {got}")
    _refuse_randomness(model)
    _refuse_scales_of_all_rows(model)
    _refuse_changing_rotary(name, config)
    if getattr(config, "add_cross_attention", False):
        raise UnsupportedModelError(f"{name} has cross-attention; specbound runs decoder-only models")
    if getattr(config, "use_bidirectional_attention", None) or not getattr(config, "is_causal", True):
        raise UnsupportedModelError(f"{name} sees tokens that come later, so that nothing can be cached")
    _refuse_odd_layers(model)


def _refuse_odd_layers(model: PreTrainedModel) -> None:
    """Refuses layers that were removed, moved, repeated or given other kernels without the rest of the model."""
    body, name = body_of(model), name_of(model)
    layers, num_layers = getattr(body, FAMILIES[body.config.model_type].layers), num_layers_of(model)
    if body.config.num_hidden_layers < num_layers:
        raise UnsupportedModelError(
            f"{name}: config.num_hidden_layers is {body.config.num_hidden_layers}, and this family runs all "
            f"{num_layers} layers: remove layers from the model too"
        )
    if num_layers < 1 or len(layer_kinds(body.config, num_layers)) < num_layers:
        raise UnsupportedModelError(f"{name}: config.layer_types must name {num_layers} layers, at least one")
    for place in range(num_layers):
        for part in layers[place].modules():
            number = part.__dict__.get("layer_idx", place)
            if number != place:
                raise UnsupportedModelError(
                    f"{name}: layer {place} writes to place {number} of the cache, because layers were removed or "
                    "moved: give every part of a layer its place as layer_idx, and config.num_hidden_layers the number"
                )
            config = part.__dict__.get("own_config", part.__dict__.get("config", body.config))
            if config._attn_implementation != body.config._attn_implementation:
                raise UnsupportedModelError(
                    f"{name}: layer {place} has attention {config._attn_implementation!r}, and its masks are for "
                    f"{body.config._attn_implementation!r}: use model.set_attn_implementation"
                )


def _refuse_randomness(model: PreTrainedModel) -> None:
    """Refuses dropout that is on: of the model, of a layer, of an adapter."""
    for path, module in model.named_modules():
        if module.training and _can_be_random(module):
            where = f"has {path}, a {type(module).__name__}," if path else "is"
            raise UnsupportedModelError(
                f"{name_of(model)} {where} in training mode, where dropout makes outputs random: call .eval()"
            )


def _refuse_scales_of_all_rows(model: PreTrainedModel) -> None:
    """Refuses layers that round every token by the largest number of all tokens in the call."""
    for path, module in model.named_modules():
        if type(module).__module__.startswith(DYNAMIC_QUANTISATION):
            raise UnsupportedModelError(
                f"{name_of(model)} has {path}, quantised dynamically by PyTorch: it rounds a token by the others in "
                "the call, so that drafts would change the output; take --compression int8, or float weights"
            )


def _can_be_random(module: nn.Module) -> bool:
    """Whether a module may draw random numbers in training mode, by its settings or by the code of its class."""
    package = type(module).__module__
    if package.startswith("torch.nn."):
        return isinstance(module, RANDOM_MODULES) and getattr(module, "p", 1) != 0
    if package.startswith("peft."):
        return any("dropout" in name and _is_on(value) for name, value in vars(module).items())
    own = (kind for kind in type(module).__mro__ if not kind.__module__.startswith("torch.nn."))
    functions = (value for kind in own for value in vars(kind).values() if hasattr(value, "__code__"))
    return any("training" in code.co_names for function in functions for code in _codes(inspect.unwrap(function)))


def _codes(function: Any) -> Iterator[Any]:
    """The code of a function, and of those within it."""
    pending = [function.__code__]
    while pending:
        code = pending.pop()
        yield code
        pending += [constant for constant in code.co_consts if hasattr(constant, "co_names")]


def _is_on(value: object) -> bool:
    """Whether a setting of PEFT, a number or one for each adapter, is above zero; modules are looked at themselves."""
    numbers = value.values() if isinstance(value, dict) else (value,)
    return any(isinstance(number, (int, float)) and number > 0 for number in numbers)


def _refuse_changing_rotary(name: str, config: object) -> None:
    """Rotary embeddings that depend on the length seen so far write to the user's module and cannot be rolled back."""
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [p for p in parameters.values() if isinstance(p, dict)] or [parameters]
    for rope in nested:
        kind = rope.get("rope_type", "default")
        if "dynamic" in kind or kind == "longrope":
            raise UnsupportedModelError(f"{name} has rotary embeddings of type {kind!r}, which change with the length")
