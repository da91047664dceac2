"""The `bitwise` exactness level: a model whose rows do not depend on how many of them are computed together.

`row_stable_model` gives a twin of a model that shares its parameters; only the twin's projections, attentions and
activations run differently. It knows no drafts and no cache: a `ModelAdapter` runs the twin as it runs any model, and
`check_row_stable` tries the result on the machine at hand.
"""

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.pytorch_utils import Conv1D

from specbound.decoding.model.families import name_of
from specbound.decoding.model.lean import ROW_STABLE_ATTENTION
from specbound.decoding.model.left_out import described, is_library
from specbound.decoding.model.row_attention import row_stable_attention
from specbound.decoding.model.row_blocks import RowBlocks, RowNorm, find_block_rows, is_kind
from specbound_controller.errors import UnsupportedModelError

# K inputs, N outputs of a projection

VECTOR_WIDTH = 64
"""Rows of a multiple of it fill whole CPU vectors; elements left over go through scalar code and round otherwise."""
PARALLEL_ELEMENTS = 32768
"""From this size on PyTorch splits an elementwise operation between threads, anywhere in a row."""


def row_stable_model(model: PreTrainedModel) -> PreTrainedModel:
    """A twin of `model` that gives a token bitwise the same logits in a call of one row and in a call of many.

    The twin shares parameters, buffers, embeddings and, on a CPU, norms with `model`, which is not changed. Whether its
    rows are really equal depends on the device and its libraries, so `check_row_stable` must follow.

    Raises:
        UnsupportedModelError: the model is spread over devices, or one of its modules cannot be copied.
    """
    places = sorted({str(parameter.device) for parameter in model.parameters()})
    if len(places) > 1:
        raise UnsupportedModelError(f"{name_of(model)} is on {', '.join(places)}: bitwise exactness needs one device")
    attend = ALL_ATTENTION_FUNCTIONS["sdpa"]
    if not is_library(attend):
        raise UnsupportedModelError(
            f"{name_of(model)}: bitwise exactness cannot follow {described(attend)} under the name of sdpa attention"
        )
    ALL_ATTENTION_FUNCTIONS.register(ROW_STABLE_ATTENTION, row_stable_attention)
    twin = _Twins(name_of(model)).of(model)
    assert isinstance(twin, PreTrainedModel)  # a copy is of the same class
    return twin


class _Twins:
    """Copies the modules that lead to something that must run differently; all others serve both models."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.find_block_rows = functools.cache(find_block_rows)
        self._twins: dict[nn.Module, nn.Module] = {}

    def of(self, module: nn.Module) -> nn.Module:
        if module not in self._twins:
            self._twins[module] = self._make(module)
        return self._twins[module]

    def _make(self, module: Any) -> nn.Module:
        forward = self._forward_of(module)
        children = {key: self.of(child) if child is not None else None for key, child in module._modules.items()}
        is_attention = type(module).__name__.endswith("Attention") and hasattr(module, "config")
        if forward is None and not is_attention and all(children[key] is module._modules[key] for key in children):
            return module
        if "forward" in module.__dict__ and not hasattr(module, "_hf_hook"):
            kind = type(module).__name__
            raise UnsupportedModelError(
                f"{self.name}: bitwise exactness cannot copy a {kind} with a forward of its own"
            )
        twin = copy.copy(module)
        twin.__dict__.pop("forward", None)  # accelerate's, bound to the user's module; it does nothing on one device
        twin.__dict__["_modules"] = children
        if forward is not None:
            twin.__dict__["forward"] = forward
        if is_attention:
            twin.__dict__["own_config"] = module.config
            twin.__dict__["config"] = config = copy.copy(module.config)
            config._attn_implementation = ROW_STABLE_ATTENTION
        return twin

    def _forward_of(self, module: nn.Module) -> Callable[[Tensor], Tensor] | None:
        """What replaces the forward of a projection, an activation, on a GPU a norm; None for all other modules."""
        own = functools.partial(type(module).forward, module)
        if is_kind(module, "Linear8bitLt"):
            return functools.partial(int8_projection, module)
        if isinstance(module, (nn.Linear, Conv1D)):
            return RowBlocks(module, own, self.find_block_rows)
        if type(module).__name__.endswith("Norm") and is_on_gpu(module):
            return RowNorm(own)
        if type(module).__module__ in ("transformers.activations", "torch.nn.modules.activation"):
            return functools.partial(activate_rows, own)
        return None


def is_on_gpu(module: nn.Module) -> bool:
    """Whether a module's parameters are on another device than the CPU."""
    return any(parameter.device.type not in ("cpu", "meta") for parameter in module.parameters())


def int8_projection(module: Any, x: Tensor) -> Tensor:
    """LLM.int8 as bitsandbytes computes it for one row, for all rows at once. (..., K) -> (..., N)

    bitsandbytes takes the columns that hold an outlier in *any* row out of the int8 product of *all* rows. Here each
    row takes out its own: the int8 product is exact and needs no blocks, and a row with outliers gets its own addition.
    """
    state, weight = module.state, module.weight
    quantised, scales = (state.CB, state.SCB) if state.CB is not None else (weight.CB, weight.SCB)
    if quantised is None or scales is None:
        raise UnsupportedModelError("an int8 layer holds no int8 weights yet: load the model quantised")
    rows = x.reshape(-1, x.shape[-1])
    halves = rows.to(torch.float16)
    with_outliers: list[int] = []
    if state.threshold > 0:
        outliers = halves.abs() >= state.threshold
        with_outliers = outliers.any(dim=1).nonzero().flatten().tolist()
        if with_outliers:
            halves = halves.masked_fill(outliers, 0)
    ops = torch.ops.bitsandbytes
    codes, row_scales, _ = ops.int8_vectorwise_quant(halves, 0.0)
    bias = module.bias.to(x.dtype) if module.bias is not None else None
    output = ops.int8_scaled_mm(codes, quantised, row_scales, scales, bias=bias, dtype=x.dtype)
    for row in with_outliers:
        columns = outliers[row].nonzero().flatten()
        part = ops.int8_vectorwise_dequant(quantised[:, columns].contiguous(), scales).to(x.dtype).t()
        output[row : row + 1] = output[row : row + 1].addmm(rows[row : row + 1, columns], part)
    return output.view(*x.shape[:-1], output.shape[-1])


def activate_rows(activate: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """An elementwise function, row by row where rows would otherwise share vectors or be cut by threads."""
    width = x.shape[-1]
    is_split = torch.get_num_threads() > 1 and x.numel() >= PARALLEL_ELEMENTS
    if x.device.type != "cpu" or x.numel() == width or (width % VECTOR_WIDTH == 0 and not is_split):
        return activate(x)
    return torch.cat([activate(row) for row in x.reshape(-1, width).split(1)]).view(x.shape)
