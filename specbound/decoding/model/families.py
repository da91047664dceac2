"""Which models are run, and which are refused with the reason: the table of families, and where each keeps its parts.

A new family is one entry of `FAMILIES`. Knows configs and the names of modules; runs nothing.
"""

from dataclasses import dataclass

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
    "stablelm": Family(),
    "olmo2": Family(),
    "gpt_neox": Family(final_norm="final_layer_norm", cache_argument="layer_past"),
    "gpt2": Family(layers="h", final_norm="ln_f", positions="wpe"),
    "opt": Family(final_norm="final_layer_norm", positions="offset"),
}
"""By the `model_type` of transformers' config."""
ATTENTION_IMPLEMENTATIONS = ("sdpa", "eager")
FULL, SLIDING = "full_attention", "sliding_attention"


def layer_kinds(config: object, num_layers: int) -> list[str]:
    """`full_attention` or `sliding_attention` for each layer. (L,)"""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return list(kinds)
    return [SLIDING if getattr(config, "sliding_window", None) is not None else FULL] * num_layers


def name_of(model: nn.Module) -> str:
    """A model's class and, where it was loaded from somewhere, its name."""
    path = getattr(getattr(model, "config", None), "_name_or_path", "")
    return f"{type(model).__name__} ({path})" if path else type(model).__name__


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
    if model.training:
        raise UnsupportedModelError(f"{name} is in training mode, where dropout makes outputs random: call .eval()")
    _refuse_changing_rotary(name, config)
    if getattr(config, "add_cross_attention", False):
        raise UnsupportedModelError(f"{name} has cross-attention; specbound runs decoder-only models")


def _refuse_changing_rotary(name: str, config: object) -> None:
    """Rotary embeddings that depend on the length seen so far write to the user's module and cannot be rolled back."""
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [p for p in parameters.values() if isinstance(p, dict)] or [parameters]
    for rope in nested:
        kind = rope.get("rope_type", "default")
        if "dynamic" in kind or kind == "longrope":
            raise UnsupportedModelError(f"{name} has rotary embeddings of type {kind!r}, which change with the length")
