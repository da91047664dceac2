"""Finds the transformers model inside what other libraries wrap around it. Knows nothing of layers and families."""

from typing import Any

from transformers import PreTrainedModel

from specbound_controller.errors import UnsupportedModelError

ADAPTERS_IN_LAYERS = frozenset(
    {
        "ADALORA",
        "BOFT",
        "C3A",
        "FOURIERFT",
        "HRA",
        "IA3",
        "LN_TUNING",
        "LOHA",
        "LOKR",
        "LORA",
        "MISS",
        "OFT",
        "RANDLORA",
        "SHIRA",
        "TRAINABLE_TOKENS",
        "VBLORA",
        "VERA",
    }
)
"""Kinds of PEFT adapters that live in the model's own layers, so that running these layers runs the adapter."""


def unwrapped(model: Any) -> Any:
    """The model inside `torch.compile` and PEFT wrappers; its layers are the same objects.

    A compiled model's layers run uncompiled: the compiled graph is one whole forward pass, which a draft cannot leave.

    Raises:
        UnsupportedModelError: an adapter that works outside the layers (prompt tuning and the like), by name.
    """
    if hasattr(model, "_orig_mod"):
        return unwrapped(model._orig_mod)
    if not (hasattr(model, "peft_config") and hasattr(model, "get_base_model")):
        return model
    for name, config in model.peft_config.items():
        kind = str(getattr(config.peft_type, "value", config.peft_type))
        if kind not in ADAPTERS_IN_LAYERS or getattr(config, "alora_invocation_tokens", None):
            raise UnsupportedModelError(
                f"{type(model).__name__} has the adapter {name!r} of type {kind}, which changes more than the layers; "
                f"merge it into the model first"
            )
    return unwrapped(model.get_base_model())


def refuse_offloaded(model: PreTrainedModel) -> None:
    """Raises where accelerate keeps the embedding or the head off the devices; offloaded layers are fine."""
    for name, part in (("embedding", model.get_input_embeddings()), ("head", model.get_output_embeddings())):
        if part is not None and any(parameter.is_meta for parameter in part.parameters()):
            raise UnsupportedModelError(
                f"{type(model).__name__} has its {name} offloaded, which every draft reads: keep it on a device"
            )
