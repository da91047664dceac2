"""Whether two fingerprints are of one model: equal over casts, quantisation and dequantised copies, not over training.

A fingerprint is text: the sha256 of the exact form (64 hex digits, all that earlier versions wrote), then the shape's
checksum, signs of the input embedding and last bits of the norms. Computes none: it knows no model.
"""

import base64
from dataclasses import dataclass

import numpy as np

from specbound_controller.errors import InputError

NUM_SIGNS = 1024
NUM_BITS = 2048
MAX_SIGNS_APART = 1 / 8
"""Share of the embedding's signs that may differ. Measured over the embeddings of SmolLM2 and of the demonstration
model, GGUF's Q8_0 turns 0.5 % of them (values near zero become zero), Q4_1 3 %, Q4_0, the coarsest of the common ones,
6 to 8 %; another model of the same shape turns half."""
MAX_BITS_APART = 1 / 10
"""Share of the norms' last bits, in bfloat16, that may differ. GGUF files and bitsandbytes leave norms alone, and so do
casts to bf16 and fp16, but for a checkpoint in fp32, which is rounded twice on its way through fp16 and then differs in
one of sixteen. Twenty steps of AdamW at 5e-5 turned 7 % of them."""
MAX_BITS_APART_IN_BF16 = 1 / 400
"""The same where both were in bfloat16, as most checkpoints are: then no level changes any. Ten steps of AdamW at 1e-5
turned 0.6 %. A fine-tune that leaves embedding and norms alone, as LoRA does, is not told apart."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a model is known by."""

    exact: str
    """Sha256 of shape and 4,096 signs. 64 hex digits"""
    shape: str = ""
    """Checksum of the config's architecture fields; empty where an earlier version wrote the fingerprint."""
    signs: bytes = b""
    """One bit each, `NUM_SIGNS` or, for tiny models, fewer"""
    bits: bytes = b""
    """One bit each; none for a model whose norms have no weights"""
    is_bf16: bool = False
    """Whether the norms' weights were all values of bfloat16."""

    def __str__(self) -> str:
        if not self.shape:
            return self.exact
        parts = (base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (self.signs, self.bits))
        return ".".join((self.exact, self.shape, *parts, "bf16" if self.is_bf16 else "fp32"))

    @staticmethod
    def parse(text: str) -> "Fingerprint":
        """Raises InputError where the text is none."""
        parts = text.split(".")
        if len(parts) == 1:
            return Fingerprint(text)
        try:
            exact, shape, signs, bits, dtype = parts
            return Fingerprint(exact, shape, _decoded(signs), _decoded(bits), {"bf16": True, "fp32": False}[dtype])
        except (ValueError, KeyError) as error:
            raise InputError(f"model_fingerprint must be what specbound wrote, got {text[:100]!r}") from error


def same_model(first: str, second: str) -> bool:
    """Whether both are of one model. One that an earlier version wrote must be equal to the other exactly."""
    if first == second:
        return True
    a, b = Fingerprint.parse(first), Fingerprint.parse(second)
    if not (a.shape and b.shape):
        return a.exact == b.exact
    bits_apart = MAX_BITS_APART_IN_BF16 if a.is_bf16 and b.is_bf16 else MAX_BITS_APART
    is_near = _share_apart(a.signs, b.signs) <= MAX_SIGNS_APART and _share_apart(a.bits, b.bits) <= bits_apart
    return a.shape == b.shape and is_near


def exact_part(fingerprint: str) -> str:
    """What files and folders are named by. 64 hex digits"""
    return fingerprint.partition(".")[0]


def _share_apart(first: bytes, second: bytes) -> float:
    """Share of bits that differ; 1 where there are not as many, 0 where there are none."""
    if len(first) != len(second):
        return 1.0
    if not first:
        return 0.0
    a, b = (np.unpackbits(np.frombuffer(each, dtype=np.uint8)) for each in (first, second))
    return float((a != b).mean())


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
