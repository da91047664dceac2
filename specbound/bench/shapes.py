"""Random models of published shapes whose shallow layers agree with the last one as often as is asked.

What a layer costs does not depend on its weights, so that such a model costs what the real one does. Its deep layers
are damped: the smaller what they add to the hidden state, the more often the exit's token is the full model's. Damping
is found by bisection on live decoding. Every figure of such a model is synthetic: real seconds, acceptance as set.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from specbound.decoding.model.free_memory import free_bytes
from specbound_controller.errors import InputError


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a Llama."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_key_value_heads: int
    vocab_size: int
    source: str
    """Whose shape it is."""
    needs_gpu: bool = False
    paper_tokens_per_step: float | None = None
    """What SpecBound's paper reports for this model."""
    paper_speedup: float | None = None

    def config(self) -> LlamaConfig:
        """Without end tokens, so that every output is as long as its limit."""
        return LlamaConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_key_value_heads,
            max_position_embeddings=8192,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )

    @property
    def num_parameters(self) -> int:
        """Embedding and head are not tied."""
        head_size = self.hidden_size // self.num_heads
        attention = self.hidden_size * (2 * self.hidden_size + 2 * head_size * self.num_key_value_heads)
        layer = attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size
        return self.num_layers * layer + 2 * self.vocab_size * self.hidden_size + self.hidden_size


SHAPE_SIZES = {
    "tiny": Shape(8, 128, 256, 4, 2, 1024, "a tiny Llama"),
    "small": Shape(16, 512, 1408, 8, 4, 8192, "a small Llama"),
    "1b": Shape(16, 2048, 8192, 32, 8, 128256, "Llama 3.2 1B"),
    "7b": Shape(32, 4096, 11008, 32, 32, 32000, "Vicuna 7B", True, 3.78, 2.15),
    "13b": Shape(40, 5120, 13824, 40, 40, 32016, "CodeLlama 13B", True, 3.49, 2.33),
}
USUAL_TOKENS_PER_STEP = 3.0
"""Asked of shapes that no paper reports."""
ROOM = 1.25
"""Memory that must be free, over that of the weights."""
TOLERANCE = 0.02
"""Relative distance to what is asked at which the search ends."""
MAX_TRIALS = 14


def random_model(name: str, device: torch.device, seed: int) -> PreTrainedModel:
    """A random Llama of a shape: bf16 on a GPU, fp32 on a CPU.

    Raises InputError where it needs a GPU that is not there, or more memory than is free.
    """
    shape, is_gpu = SHAPE_SIZES[name], device.type == "cuda"
    if shape.needs_gpu and not is_gpu:
        raise InputError(f"shape {name} needs a GPU, got device {device}: choose 1b or smaller for a CPU")
    dtype = torch.bfloat16 if is_gpu else torch.float32
    needed, free = int(ROOM * shape.num_parameters * dtype.itemsize), free_bytes(device)
    if free is not None and needed > free:
        raise InputError(
            f"shape {name} needs {needed / 2**30:.1f} GiB of memory on {device}, got {free / 2**30:.1f} GiB free"
        )
    return model_of(shape, device, dtype, seed)


def model_of(shape: Shape, device: torch.device, dtype: torch.dtype, seed: int) -> PreTrainedModel:
    """A random Llama of any sizes."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        with torch.device(device):
            model = LlamaForCausalLM._from_config(shape.config(), dtype=dtype)
    return model.eval()


class Damping:
    """Scales what the layers after an exit add to the hidden state, in place; the model is one of our own making."""

    def __init__(self, model: PreTrainedModel, exit_layer: int) -> None:
        layers: Any = model.get_decoder().layers
        self._weights: list[Tensor] = [
            weight
            for layer in layers[exit_layer:]
            for weight in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight)
        ]
        self.scale = 1.0

    @torch.no_grad()
    def set(self, scale: float) -> None:
        """scale: above 0; 1 is the random model as it was made."""
        for weight in self._weights:
            weight.mul_(scale / self.scale)
        self.scale = scale


@dataclass(frozen=True, slots=True)
class Found:
    """Where the search ended."""

    scale: float
    value: float
    """What was reached."""
    num_trials: int

    def is_near(self, target: float) -> bool:
        """Within the tolerance."""
        return abs(self.value / target - 1.0) <= TOLERANCE


def find_scale(measure: Callable[[float], float], target: float, most: float = 4.0) -> Found:
    """Bisection, on a logarithmic scale, for what makes `measure` reach the target; it falls as the scale grows.

    Of all trials the nearest one counts: live figures come in steps and are not quite monotone.
    """
    low, high = most / 2.0**16, most
    best = Found(high, measure(high), 1)
    while not best.is_near(target) and best.num_trials < MAX_TRIALS:
        middle = (low * high) ** 0.5
        value, trials = measure(middle), best.num_trials + 1
        low, high = (middle, high) if value > target else (low, middle)
        is_better = abs(value - target) < abs(best.value - target)
        best = Found(middle, value, trials) if is_better else Found(best.scale, best.value, trials)
    return best
