"""Decoding from inside transformers, for `custom_generate/generate.py`: a decoder for each model. Knows no files."""

import threading
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.model.wrapped import unwrapped
from specbound.decoding.output import GenerateOutput

DECODERS = "_specbound_decoders"
"""Attribute of a model: its decoders by policy and exactness. They are gone with the model."""
_making = threading.Lock()


def generate_inside(model: PreTrainedModel, policy: str, exactness: str, **arguments: Any) -> Tensor | GenerateOutput:
    """What `model.generate(**arguments)` returns, decoded with drafts.

    transformers' own `generate` reads the arguments; `model.generate` may be the caller, so the class's is called.

    policy: a name, as `SpecBoundDecoder` takes it.
    """
    decoder = decoder_inside(model, policy, exactness)
    return type(model).generate(model, custom_generate=decoder, **arguments)


def decoder_inside(model: PreTrainedModel, policy: str, exactness: str) -> SpecBoundDecoder:
    """The model's own decoder, made at the first call."""
    with _making:
        held: dict[tuple[str, str], SpecBoundDecoder] = vars(unwrapped(model)).setdefault(DECODERS, {})
        key = policy, exactness
        if key not in held:
            held[key] = SpecBoundDecoder(model, policy, exactness=exactness)
        return held[key]
