"""Random models of published shapes on the device of a run, and our decoder on them, captured or not."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from specbound.bench.gpu.finding import Settings
from specbound.bench.shapes import SHAPE_SIZES, Shape, random_model
from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.greedy_twin import greedy_twin
from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.model.segments import StaticSegments
from specbound_controller.policy import Policy

DRY_SHAPE = "tiny"
"""Stands for every shape in a dry run."""
KINDS = ("eager", "graphs")
"""How layers run: call by call, or captured."""


def shape_model(name: str, settings: Settings, seed: int = 0) -> PreTrainedModel:
    """bf16 on a GPU. Raises InputError where it does not fit."""
    return random_model(DRY_SHAPE if settings.is_dry else name, torch.device(settings.device), seed)


def shape_run(name: str, settings: Settings) -> Shape:
    """The sizes of what `shape_model` gives for a name."""
    return SHAPE_SIZES[DRY_SHAPE if settings.is_dry else name]


def decoder_of(
    model: PreTrainedModel,
    kind: str,
    policy: Policy | None = None,
    exactness: str = "token",
    compression: str = "none",
) -> SpecBoundDecoder:
    """A greedy decoder. `graphs`: captured; on a CPU the same static buffers without a capture, which it has not."""
    is_gpu = model.device.type == "cuda"
    is_captured = kind == "graphs" and is_gpu
    twin = greedy_twin(model)
    decoder = SpecBoundDecoder(twin, policy, compression, False, exactness, compile=is_captured)
    if kind == "graphs" and not is_gpu:
        decoder.adapter.segments = StaticSegments(decoder.adapter)
    return decoder


def random_ids(vocab_size: int, length: int, seed: int) -> Tensor:
    """A prompt of random tokens. (1, length)"""
    return torch.randint(vocab_size, (1, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def quantise_nf4(model: PreTrainedModel) -> None:
    """Replaces the projections of all layers by 4-bit ones, in place; head and embedding stay, as transformers does."""
    import bitsandbytes

    compute = torch.bfloat16 if model.device.type == "cuda" else torch.float32
    for layer in ModelAdapter(model).layers:
        for parent in list(layer.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is not nn.Linear:
                    continue
                made = bitsandbytes.nn.Linear4bit(
                    child.in_features,
                    child.out_features,
                    child.bias is not None,
                    compute,
                    quant_type="nf4",
                    device="meta",
                )
                weight = child.weight.data
                made.weight = bitsandbytes.nn.Params4bit(
                    weight.cpu(), requires_grad=False, compress_statistics=False, quant_type="nf4"
                )
                made.bias = child.bias
                setattr(parent, name, made.to(weight.device).eval())


class LayerCalls:
    """All layers on so many tokens again and again, at one position of a cache of its own."""

    def __init__(self, decoder: SpecBoundDecoder, num_rows: int, context: int) -> None:
        """The context is run once."""
        self.adapter, self.context = decoder.step_adapter, context
        ids = random_ids(self.adapter.vocab_size, context + num_rows, 0).to(self.adapter.device)
        self._cache = self.adapter.new_cache(context + num_rows)
        with torch.inference_mode():
            prompt = self.adapter.embed(ids[:, :context], 0)
            decoder.adapter.run_layers(prompt, 0, self.adapter.num_layers, self._cache, 0)
            self._hidden = self.adapter.embed(ids[:, context:], context)

    @torch.inference_mode()
    def __call__(self) -> Tensor:
        """(1, n, D)"""
        output = self.adapter.run_layers(self._hidden, 0, self.adapter.num_layers, self._cache, self.context)
        self._cache.truncate(self.context)
        return output
