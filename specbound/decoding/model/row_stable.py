"""The `bitwise` exactness level: a model whose rows do not depend on how many of them are computed together.

`row_stable_model` gives a twin of a model that shares its parameters; only the twin's projections, attentions and
activations run differently. It knows no drafts and no cache: a `ModelAdapter` runs the twin as it runs any model, and
`check_row_stable` tries the result on the machine at hand.
"""

import copy
import functools
import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.pytorch_utils import Conv1D

from specbound.decoding.model.adapter import ModelAdapter, name_of
from specbound.decoding.model.lean import ROW_STABLE_ATTENTION
from specbound_controller.errors import UnsupportedModelError

# B sequences, n new tokens, R = B * n rows, H heads, D width of a head, K inputs or keys, N outputs, V vocabulary

MAX_BLOCK_ROWS = 8
"""Most rows of one matrix product; from 14 on AVX-512 kernels of fp32 change once more."""
NUM_PROBES = 4
"""Rows with which a matrix product is tried at each row count."""
VECTOR_WIDTH = 64
"""Rows of a multiple of it fill whole CPU vectors; elements left over go through scalar code and round otherwise."""
PARALLEL_ELEMENTS = 32768
"""From this size on PyTorch splits an elementwise operation between threads, anywhere in a row."""
MIN_TEST_POSITIONS = 18
TEST_BLOCKS = ((17, 1), (2, 3, 4, 8), (6, 5, 7), (9,))
"""Rows of the calls of each pass of the self-test, in turn; the last pass runs two sequences at once."""
MAX_TEST_WINDOW = 64


def row_stable_model(model: PreTrainedModel) -> PreTrainedModel:
    """A twin of `model` that gives a token bitwise the same logits in a call of one row and in a call of many.

    The twin shares parameters, buffers, embeddings and norms with `model`, which is not changed. Whether its rows
    are really equal depends on the device and its libraries, so `check_row_stable` must follow.

    Raises:
        UnsupportedModelError: the model is spread over devices, or one of its modules cannot be copied.
    """
    places = sorted({str(parameter.device) for parameter in model.parameters()})
    if len(places) > 1:
        raise UnsupportedModelError(f"{name_of(model)} is on {', '.join(places)}: bitwise exactness needs one device")
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
        """What replaces the forward of a projection or an activation; None for all other modules."""
        own = functools.partial(type(module).forward, module)
        if is_kind(module, "Linear8bitLt"):
            return functools.partial(int8_projection, module)
        if isinstance(module, (nn.Linear, Conv1D)):
            return RowBlocks(module, own, self.find_block_rows)
        if type(module).__module__ in ("transformers.activations", "torch.nn.modules.activation"):
            return functools.partial(activate_rows, own)
        return None


@dataclass(frozen=True, slots=True)
class MatrixProduct:
    """What a matrix library chooses its kernel by, the number of rows aside."""

    inputs: int
    outputs: int
    dtype: torch.dtype
    device: torch.device
    has_bias: bool
    is_transposed: bool
    """The weight is stored (K, N), as GPT-2's, and not (N, K)."""
    num_threads: int


class RowBlocks:
    """A projection in calls of so many rows that every row takes the same way through the matrix kernels."""

    def __init__(
        self,
        module: Any,
        project: Callable[[Tensor], Tensor],
        find: Callable[[MatrixProduct], tuple[int, int]],
    ) -> None:
        """project: the module's own forward. find: fewest and most rows for a product."""
        self.module, self.project, self.find = module, project, find
        self._limits: dict[int, tuple[int, int]] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N)"""
        limits = self._limits.get(torch.get_num_threads())
        if limits is None:
            limits = self._limits[torch.get_num_threads()] = self._find_limits(x.dtype)
        fewest, most = limits
        rows = x.reshape(-1, x.shape[-1])
        num_rows = rows.shape[0]
        if num_rows < fewest:
            output = self._padded(rows, fewest)
        elif num_rows <= most:
            output = self.project(rows)
        else:
            output = torch.cat([self._padded(block, fewest) for block in rows.split(most)])
        return output.view(*x.shape[:-1], output.shape[-1])

    def _padded(self, rows: Tensor, fewest: int) -> Tensor:
        """Copies of a row fill the block: their results are as finite as the row's own."""
        missing = fewest - rows.shape[0]
        if missing <= 0:
            return self.project(rows)
        return self.project(torch.cat((rows, *(rows[:1],) * missing)))[:-missing]

    def _find_limits(self, dtype: torch.dtype) -> tuple[int, int]:
        module = self.module
        device = module.weight.device
        if is_kind(module, "Linear4bit"):
            if device.type != "cpu":
                return MAX_BLOCK_ROWS, MAX_BLOCK_ROWS  # one row has a kernel of its own: always the same row count
            if getattr(module, "support_avx512bf16_for_cpu", False):
                return 1, MAX_BLOCK_ROWS  # its kernel for packed weights treats rows one by one
            dtype = module.compute_dtype or dtype  # the weight is expanded, then multiplied as any other
        is_transposed = isinstance(module, Conv1D)
        inputs, outputs = (module.nx, module.nf) if is_transposed else (module.in_features, module.out_features)
        has_bias = module.bias is not None
        return self.find(
            MatrixProduct(inputs, outputs, dtype, device, has_bias, is_transposed, torch.get_num_threads())
        )


def is_kind(module: nn.Module, name: str) -> bool:
    """Whether a module is of a class or subclass of this name; its package need not be installed."""
    return any(base.__name__ == name for base in type(module).__mro__)


def find_block_rows(product: MatrixProduct) -> tuple[int, int]:
    """The longest run of row counts at which a matrix product gives a row the same result, wherever it stands.

    Libraries choose kernels by row count. Seen for fp32: with AVX-512 one row, 2 to 13, more, and with two threads
    also 2 to 3 and 4 to 8; with AVX2 4 to 6, where rows of longer blocks depend on their place. So it is tried, on
    sums that cancel: what is left is rounding, and it differs wherever the order of additions does.
    """
    probes, weight = cancelling_factors(product)
    bias = weight.new_zeros(product.outputs)
    multiply: Callable[[Tensor], Tensor]
    if product.is_transposed:
        multiply = functools.partial(torch.addmm, bias, mat2=weight.T.contiguous())
    else:
        multiply = functools.partial(nn.functional.linear, weight=weight, bias=bias if product.has_bias else None)
    runs: list[list[int]] = []
    previous: Tensor | None = None
    for count in range(1, MAX_BLOCK_ROWS + 1):
        results = torch.stack([multiply(probe.expand(count, -1).contiguous()) for probe in probes])
        first = results[:, :1]
        found = first if torch.equal(results, first.expand_as(results)) else None  # None: the place in a block matters
        if found is not None and previous is not None and torch.equal(found, previous):
            runs[-1].append(count)
        elif found is not None:
            runs.append([count])
        previous = found
    longest = max(runs, key=len)
    return longest[0], longest[-1]


def cancelling_factors(product: MatrixProduct) -> tuple[Tensor, Tensor]:
    """Rows (P, K) and a weight (N, K) whose exact products are zero, from terms of very different sizes.

    Without the sizes, products of 8-bit numbers add up without rounding; without the cancelling, rounding to a short
    output hides all but one difference in 10^5.
    """
    generator = torch.Generator().manual_seed(0)
    inputs, outputs = product.inputs, product.outputs
    num_rows = NUM_PROBES + min(outputs, 64)
    half = torch.randn(num_rows, inputs // 2, generator=generator)
    half *= 2.0 ** torch.randint(-5, 6, half.shape, generator=generator)
    factors = torch.cat([half, half, torch.zeros(num_rows, inputs % 2)], dim=1)
    factors[:NUM_PROBES, : inputs // 2] *= -1
    factors = factors[:, torch.randperm(inputs, generator=generator)].to(product.device, product.dtype)
    weight = factors[NUM_PROBES:].repeat(-(-outputs // (num_rows - NUM_PROBES)), 1)[:outputs]
    return factors[:NUM_PROBES], weight


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


def row_stable_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """One attention call per query row, on exactly the keys it sees, as plain decoding makes it.

    query: (B, H, n, D); key, value: (B, key-value heads, K, D). Returns (B, n, H, D).
    """
    attend = _sdpa_row if module.own_config._attn_implementation == "sdpa" else _eager_row
    ranges = visible_ranges(attention_mask, query.shape[2], key.shape[2])
    rows = []
    for index, spans in enumerate(ranges):
        one = query[:, :, index : index + 1]
        if len(spans) == 1:
            keys = slice(*spans[0])
            rows.append(attend(module, one, key[:, :, keys], value[:, :, keys], options))
            continue
        sequences = []
        for b, span in enumerate(spans):
            keys, own = slice(*span), slice(b, b + 1)
            sequences.append(attend(module, one[own], key[own, :, keys], value[own, :, keys], options))
        rows.append(torch.cat(sequences))
    return torch.cat(rows, dim=1) if len(rows) > 1 else rows[0], None


def _sdpa_row(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> Tensor:
    if options.get("softcap") is not None:
        raise UnsupportedModelError("sdpa attention cannot soft-cap its scores: use attn_implementation='eager'")
    output = nn.functional.scaled_dot_product_attention(
        query, key, value, scale=options.get("scaling"), enable_gqa=query.shape[1] != key.shape[1]
    )
    return output.transpose(1, 2).contiguous()


def _eager_row(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> Tensor:
    family = sys.modules[type(module).__module__]
    return family.eager_attention_forward(module, query.contiguous(), key, value, None, **options)[0]


def visible_ranges(mask: Tensor | None, num_queries: int, num_keys: int) -> list[list[tuple[int, int]]]:
    """First and last + 1 key of each query: one pair for all sequences where they agree, else one pair for each.

    mask: additive (1 or B, 1, n, K), zero where a key is seen; None is causal. All layers of a call get the same
    mask tensor, so that the answer is kept on it.
    """
    if mask is None:
        return [[(0, num_keys - num_queries + 1 + index)] for index in range(num_queries)]
    known = getattr(mask, "visible_ranges", None)
    if known is not None:
        return known
    seen = (mask if mask.dtype == torch.bool else mask == 0)[:, 0].int()
    last = seen.shape[-1] - seen.flip(-1).argmax(-1)
    first, last, count = torch.stack((seen.argmax(-1), last, seen.sum(-1))).transpose(1, 2).tolist()
    ranges = []
    for index in range(num_queries):
        spans = []
        for low, high, seen_keys in zip(first[index], last[index], count[index], strict=True):
            if seen_keys not in (0, high - low):
                raise UnsupportedModelError("bitwise exactness needs masks that show each token one run of keys")
            spans.append((low, high))  # a token that sees nothing is padding: it gets all keys, and no one reads it
        ranges.append(spans if len(set(spans)) > 1 else spans[:1])
    mask.visible_ranges = ranges  # type: ignore[attr-defined]
    return ranges


@torch.inference_mode()
def check_row_stable(adapter: ModelAdapter) -> None:
    """Runs fixed tokens row by row and in blocks, and compares all logits bitwise.

    Raises:
        UnsupportedModelError: rows differ on this device, with this number of threads.
    """
    num_positions = MIN_TEST_POSITIONS
    if adapter.window is not None and adapter.window <= MAX_TEST_WINDOW:
        num_positions += adapter.window
    if adapter.max_positions is not None:
        num_positions = min(num_positions, adapter.max_positions)
    tokens = (torch.arange(num_positions, device=adapter.device) * 7919 + 13).remainder(adapter.vocab_size)[None]
    alone = torch.cat([logits for _, logits in _run_in_blocks(adapter, tokens, (1,))], dim=1)
    for sizes in TEST_BLOCKS:
        batch = tokens if len(sizes) > 1 else tokens.expand(2, -1)
        for position, logits in _run_in_blocks(adapter, batch, sizes):
            expected = alone[:, position : position + logits.shape[1]].expand_as(logits)
            if not torch.equal(logits, expected):
                raise UnsupportedModelError(_refusal(adapter, logits, expected, position))


def _run_in_blocks(adapter: ModelAdapter, tokens: Tensor, sizes: tuple[int, ...]) -> Iterator[tuple[int, Tensor]]:
    """Position and logits (B, n, V) of each block of tokens, the sizes in turn. tokens: (B, T)"""
    cache = adapter.new_cache(tokens.shape[1], tokens.shape[0])
    position = 0
    for size in itertools.cycle(sizes):
        hidden = adapter.embed(tokens[:, position : position + size], position)
        yield position, adapter.read_head(adapter.run_layers(hidden, 0, adapter.num_layers, cache, position))
        position += size
        if position >= tokens.shape[1]:
            return


def _refusal(adapter: ModelAdapter, logits: Tensor, expected: Tensor, position: int) -> str:
    batch_size, num_rows, _ = logits.shape
    difference = (logits.double() - expected.double()).abs().max().item()
    return (
        f"{name_of(adapter.model)} cannot be decoded bitwise exactly on {adapter.device} with "
        f"{torch.get_num_threads()} threads in {str(adapter.dtype).removeprefix('torch.')}: logits of {batch_size} x "
        f"{num_rows} rows from position {position} on differ from those of single rows by up to {difference:.2g}; "
        f"use exactness 'token'"
    )
