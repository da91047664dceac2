"""Decoder layers of the Llama shape, run straight from their parameters: the same arithmetic in half the operations.

On a CPU a thin layer spends as long between its matrix products as in them. One row gets bitwise what the modules
give it; several rows share one attention call per key-value head, without the copies of keys and values that
transformers makes for every query head, are normalised in four operations instead of nine, and get the same but for
rounding. A row-stable twin's layers keep its projections, activations and attention, and the bits of its norms. Knows
one layer; nothing of drafts.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention, silu
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from specbound.decoding.model.cache import KeyValueStore
from specbound.decoding.model.composition import Place, found
from specbound.decoding.model.families import FAMILIES
from specbound.decoding.model.left_out import helper_places, is_library
from specbound.decoding.model.products import FewRowsProduct, Packing

# B sequences, n new tokens, R = B * n rows less padding, D hidden width, H query heads, G key-value heads, d width of a
# head, K keys

LEAN_MODULES = tuple(
    f"transformers.models.{name}.modeling_{name}" for name, family in FAMILIES.items() if family.is_lean
)
"""Where layers of this shape are defined."""
ROW_STABLE_ATTENTION = "specbound_row_stable"
"""The attention of row-stable twins, by the name under which transformers knows it."""
PROBE_POSITION, PROBE_ROWS = 7, 3
PROBE_TOLERANCE = 256
"""Most difference of several rows from the modules' result, in units of rounding of the largest value."""


class LeanLayer:
    """One decoder layer. Holds the layer's modules, and copies of a few numbers of theirs."""

    def __init__(self, layer: Any, packing: Packing) -> None:
        """packing: what becomes of the weights of products of a few rows."""
        attention, mlp = layer.self_attn, layer.mlp
        self.layer = layer
        self.index: int = attention.layer_idx
        self.head_width: int = attention.head_dim
        self.keeps_bits: bool = attention.config._attn_implementation == ROW_STABLE_ATTENTION
        """Whether several rows get the bits of single ones."""
        self.attend = ALL_ATTENTION_FUNCTIONS[ROW_STABLE_ATTENTION] if self.keeps_bits else None
        self.attention = attention
        self.is_grouped: bool = attention.num_key_value_groups > 1
        self.packed_heads: int = attention.num_key_value_groups if self.attend is None else 1
        """Query heads that share a row's place in the mask."""
        self.scaling: float = attention.scaling
        self.attention_norm, self.mlp_norm = (
            lean_norm(norm, self.keeps_bits) for norm in (layer.input_layernorm, layer.post_attention_layernorm)
        )
        self.query, self.key, self.value, self.output = (
            lean_projection(module, packing)
            for module in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
        )
        self.query_norm = lean_norm(attention.q_norm, True) if hasattr(attention, "q_norm") else None
        self.key_norm = lean_norm(attention.k_norm, True) if hasattr(attention, "k_norm") else None
        self.gate, self.up, self.down = (
            lean_projection(m, packing) for m in (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        )
        is_silu = type(mlp.act_fn).__name__ in ("SiLUActivation", "SiLU") and is_bare(mlp.act_fn)
        self.activate: Callable[[Tensor], Tensor] = silu if is_silu else mlp.act_fn
        owns_results = is_plain_linear(attention.o_proj) and is_plain_linear(mlp.down_proj)
        self.plus: Callable[[Tensor, Tensor], Tensor] = Tensor.add_ if owns_results else Tensor.add
        """In place where the first operand is a matrix product's result, which nobody else holds."""

    def copy_numbers(self) -> None:
        """Copies anew what is held of the weights themselves."""
        for norm in (self.attention_norm, self.mlp_norm):
            if isinstance(norm, LeanNorm):
                norm.copy_numbers()

    def __call__(
        self,
        rows: Tensor,
        batch_size: int,
        cos: Tensor,
        signed_sin: Tensor,
        mask: Tensor | None,
        cache: KeyValueStore,
        packing: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Runs the layer and appends to its cache. rows: (R, D) -> (R, D).

        cos, signed_sin: (1 or B, n, 1, d), as `signed` gives the sine.
        mask: additive, packed by `pack_mask` (1 or B, 1, n * packed_heads, K); None where one token sees all keys.
        packing: as `RaggedCall` gives it, where R < B n: attention alone sees the padding.
        """
        width = self.head_width
        x = self.attention_norm(rows)
        query, key, value = self.query(x), self.key(x), self.value(x)
        if packing is not None:
            query, key, value = (each.index_select(0, packing[1]) for each in (query, key, value))
        heads = (batch_size, query.shape[0] // batch_size, -1, width)
        query, key = query.view(heads), key.view(heads)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        num_heads = query.shape[2]
        turned = torch.cat((query, key), 2)
        turned = (turned * cos).add_(turned.roll(width // 2, -1).mul_(signed_sin))  # two halves change places
        query, key = torch.split_with_sizes(turned, (num_heads, key.shape[2]), 2)
        keys, values = cache.update(key.transpose(1, 2), value.view(heads).transpose(1, 2), self.index)
        if self.attend is not None:
            seen, _ = self.attend(self.attention, query.transpose(1, 2), keys, values, mask, scaling=self.scaling)
        elif mask is None:  # as transformers calls it
            seen = scaled_dot_product_attention(
                query.transpose(1, 2), keys, values, scale=self.scaling, enable_gqa=self.is_grouped
            )
        else:
            seen = packed_attention(query, keys, values, mask, self.scaling)
        seen = seen.reshape(-1, num_heads * width)
        if packing is not None:
            seen = seen.index_select(0, packing[0])
        rows = self.plus(self.output(seen), rows)
        x = self.mlp_norm(rows)
        return self.plus(self.down(self.activate(self.gate(x)) * self.up(x)), rows)


def packed_attention(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """Attention in which the query heads of a key-value head are rows of one call: keys and values are not repeated.

    query: (B, n, H, d); keys, values: (B, G, K, d); mask: as `pack_mask` gives it -> (B, n, G, H/G, d)
    """
    batch_size, num_new, num_heads, width = query.shape
    num_key_heads = keys.shape[1]
    if num_key_heads == 1:  # all heads of a row lie together already
        packed = query.reshape(batch_size, 1, -1, width)
        seen = scaled_dot_product_attention(packed, keys, values, attn_mask=mask, scale=scaling)
        return seen.view(batch_size, num_new, 1, num_heads, width)
    by_group = query.reshape(batch_size, num_new, num_key_heads, num_heads // num_key_heads, width).transpose(1, 2)
    packed = by_group.reshape(batch_size, num_key_heads, -1, width)
    seen = scaled_dot_product_attention(packed, keys, values, attn_mask=mask, scale=scaling)
    return seen.view(by_group.shape).transpose(1, 2)


def pack_mask(mask: Tensor, group: int) -> Tensor:
    """A mask with a row for each query head of a key-value head. (B, 1, n, K) -> (B, 1, n * group, K)"""
    return mask.repeat_interleave(group, 2) if group > 1 else mask


def signed(sin: Tensor) -> Tensor:
    """The sine with the sign that the rotation gives to each half. (..., d) -> (..., d)"""
    half = sin.shape[-1] // 2
    return torch.cat((-sin[..., :half], sin[..., half:]), -1)


def lean_projection(module: nn.Module, packing: Packing) -> Callable[[Tensor], Tensor]:
    """A projection without the module's call where it is a plain matrix product; else the module (quantised, LoRA)."""
    if not is_plain_linear(module):
        return module
    assert isinstance(module, nn.Linear)
    if module.weight.dtype == torch.float32 and module.weight.device.type == "cpu":
        return FewRowsProduct(module, packing)
    parameters: Any = module._parameters
    return lambda x: linear(x, parameters["weight"], parameters["bias"])


def is_plain_linear(module: Any) -> bool:
    """Whether a module is a matrix product and nothing more."""
    return type(module) is nn.Linear and is_bare(module)


def lean_norm(norm: Any, keeps_bits: bool) -> Callable[[Tensor], Tensor]:
    """A root-mean-square norm without the module's call and, of fp32 rows, without its conversions."""
    if type(norm).__module__ not in LEAN_MODULES or not is_bare(norm):
        return norm
    if norm.weight.dtype != torch.float32:
        return ConvertingNorm(norm)
    return LeanNorm(norm, keeps_bits)


class ConvertingNorm:
    """A root-mean-square norm that sums in fp32 whatever its rows are. Every row gets the module's bits."""

    def __init__(self, norm: Any) -> None:
        self._parameters: Mapping[str, Tensor] = norm._parameters
        self._epsilon: float = norm.variance_epsilon

    def __call__(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)"""
        rows = x.float()
        normalised = rows * (rows * rows).mean(-1, True).add_(self._epsilon).rsqrt_()
        return self._parameters["weight"] * normalised.to(x.dtype)


class LeanNorm:
    """A root-mean-square norm of fp32 rows.

    One row gets the module's bits. Several rows, unless they are to keep the bits too, are divided by their length in
    one operation: `x / sqrt(mean(x^2) + e)` is `sqrt(D) x / hypot(|x|, sqrt(D e))`.
    """

    def __init__(self, norm: Any, keeps_bits: bool) -> None:
        self._parameters: Mapping[str, Tensor] = norm._parameters
        self._epsilon: float = norm.variance_epsilon
        self._width: int = norm.weight.shape[0]
        self._keeps_bits = keeps_bits
        self._least = torch.tensor((self._width * self._epsilon) ** 0.5)
        self.copy_numbers()

    def copy_numbers(self) -> None:
        """Copies the weights, multiplied by sqrt(D), as they are now."""
        if not self._keeps_bits:
            self._scaled = self._parameters["weight"].detach() * self._width**0.5

    def __call__(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)"""
        if self._keeps_bits or x.numel() == self._width:
            normalised = x * (x * x).mean(-1, True).add_(self._epsilon).rsqrt_()
            return normalised.mul_(self._parameters["weight"])
        return (x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), self._least)).mul_(self._scaled)


def is_bare(module: Any) -> bool:
    """Whether calling a module does nothing but its class's forward: no hooks, no forward of its own, not compiled."""
    attached = module._forward_hooks or module._forward_pre_hooks or module._compiled_call_impl
    return not attached and "forward" not in module.__dict__


def is_lean(layer: Any) -> bool:
    """Whether a layer has the shape, is as transformers defines it or row-stable, and lies on the CPU."""
    family = type(layer).__module__
    if family not in LEAN_MODULES or layer.self_attn.config._attn_implementation not in ("sdpa", ROW_STABLE_ATTENTION):
        return False
    parts = [layer, layer.self_attn, layer.mlp, layer.input_layernorm, layer.post_attention_layernorm]
    if not all(type(part).__module__ == family and is_bare(part) for part in parts):
        return False
    is_hooked = any(module._forward_hooks or module._forward_pre_hooks for module in layer.modules())
    are_own = all(is_library(found(place)) for place in lean_places(layer))
    return are_own and not is_hooked and layer.input_layernorm.weight.device.type == "cpu"


def lean_places(layer: Any) -> list[Place]:
    """The functions whose work a lean layer does itself, by the place where the layer's modules would find them."""
    parts = [layer, layer.self_attn, layer.mlp, layer.input_layernorm]
    classes = [type(part) for part in parts] + [nn.Linear, nn.SiLU]
    if type(layer.mlp.act_fn).__name__ == "SiLUActivation":
        classes.append(type(layer.mlp.act_fn))
    places: list[Place] = [(each, name) for each in classes for name in ("__call__", "_call_impl", "forward")]
    for each in classes:
        places += helper_places(each.forward)
    attend = ALL_ATTENTION_FUNCTIONS["sdpa"]
    places += [(ALL_ATTENTION_FUNCTIONS, "sdpa"), *helper_places(attend)]
    return places + [(vars(nn.functional), name) for name in ("linear", "scaled_dot_product_attention", "silu")]
