"""Matrix products in blocks of so many rows that a row's result depends neither on its place nor on the rows beside it.

Which numbers of rows these are is tried, for each shape, device and number of threads. Knows projections only.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

# K inputs, N outputs, P probes

MAX_BLOCK_ROWS = 8
"""Most rows of one matrix product; from 14 on AVX-512 kernels of fp32 change once more."""
NUM_PROBES = 4
"""Rows with which a matrix product is tried at each row count."""


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
    return longest_run(runs, prefers_many=product.device.type != "cpu")


def longest_run(runs: list[list[int]], prefers_many: bool) -> tuple[int, int]:
    """First and last row count of the longest run; of equally long ones the first, or the one with the most rows,
    which on a GPU cost what one row costs."""
    longest = max(reversed(runs) if prefers_many else runs, key=len)
    return longest[0], longest[-1]


class RowNorm:
    """A norm in calls of a constant number of tokens: on a GPU sums over a row are divided among threads by the number
    of rows of the call."""

    def __init__(self, normalise: Callable[[Tensor], Tensor]) -> None:
        self.normalise = normalise

    def __call__(self, x: Tensor) -> Tensor:
        """(B, n, ..., K) -> (B, n, ..., K)"""
        if x.device.type == "cpu":
            return self.normalise(x)
        return self.in_blocks(x)

    def in_blocks(self, x: Tensor) -> Tensor:
        """The same, in blocks. Copies of a token fill the last one."""
        tokens = x.flatten(0, 1)
        missing = -tokens.shape[0] % MAX_BLOCK_ROWS
        filled = torch.cat((tokens, tokens[:1].expand(missing, *tokens.shape[1:]))) if missing else tokens
        blocks = [self.normalise(block) for block in filled.split(MAX_BLOCK_ROWS)]
        return (torch.cat(blocks) if len(blocks) > 1 else blocks[0])[: tokens.shape[0]].view(x.shape)


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
