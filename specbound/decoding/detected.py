"""At which compression level a loaded model's weights are held. Loads nothing."""

import torch
from transformers import PreTrainedModel

from specbound_controller.errors import InputError

_LEVELS = {torch.bfloat16: "bf16", torch.float16: "fp16"}


def detected_level(model: PreTrainedModel) -> str:
    """`int8` or `nf4` of bitsandbytes, `bf16`, `fp16`, else `none` (fp32 and fp64).

    Raises InputError where it was quantised by anything else.
    """
    quantisation = getattr(model.config, "quantization_config", None)
    if quantisation is None:
        return _LEVELS.get(model.dtype, "none")
    settings = quantisation if isinstance(quantisation, dict) else quantisation.to_dict()
    if settings.get("load_in_8bit"):
        return "int8"
    if settings.get("load_in_4bit") and settings.get("bnb_4bit_quant_type") == "nf4":
        return "nf4"
    method = settings.get("quant_method", "a method without a name")
    raise InputError(f"compression of {type(model).__name__} is not known ({method}): pass compression=... by name")
