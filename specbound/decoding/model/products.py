"""Matrix products of a few fp32 rows on a CPU, at nearly the pace at which the weights can be read.

torch's own product reads the weights once for up to three rows; for four and more it takes up to four times as long as
for one. Here 4 to 8 rows go through weights that MKL has packed for 8, where the machine has memory for such a copy;
others, to 16, through the transposed product, whose time hardly depends on the rows. Rounding differs between these;
one row always gets the bits of the model's own product. Figures: `python -m specbound.bench.micro products`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from specbound.decoding.model.free_memory import free_bytes

# R rows, I inputs, O outputs

FEWEST_ROWS, PACKED_ROWS, MOST_ROWS = 4, 8, 16
TRANSPOSED_FROM = 6
"""Rows from which on the transposed product is faster than torch's own where nothing is packed."""
LEAST_NUMBERS = 300_000
"""Of a smaller weight, which a processor's cache holds, torch's own product is as fast."""
LEAST_INPUTS = 512
"""Of a weight with fewer torch's own product is as fast as the transposed one."""
CPU = torch.device("cpu")
SPARE_MEMORY = 3.0
"""Packed copies are made where so many times their size is free."""


class Packing:
    """Whether weights may be packed, and when packed copies have to be compared with their weights again."""

    def __init__(self, num_bytes: int) -> None:
        """num_bytes: of all weights that might be packed."""
        self.is_allowed = can_pack() and (free_bytes(CPU) or 0) >= SPARE_MEMORY * num_bytes
        self.call = 0

    def begin_call(self) -> None:
        """An owner may have written to the weights since, without a trace."""
        self.call += 1


class FewRowsProduct:
    """`linear` by a module's current parameters. (R, I) or (B, n, I) -> the same with O"""

    def __init__(self, module: nn.Linear, packing: Packing) -> None:
        self._parameters: Mapping[str, Any] = module._parameters
        self._packing = packing
        self._packed: Tensor | None = None
        self._source: Tensor | None = None
        self._sum, self._call = 0, -1
        is_large = module.weight.numel() >= LEAST_NUMBERS
        self._can_pack = is_large and module.in_features % 2 == 0
        self._can_transpose = is_large and module.in_features >= LEAST_INPUTS

    def __call__(self, x: Tensor) -> Tensor:
        weight, bias = self._parameters["weight"], self._parameters["bias"]
        num_rows = x.numel() // x.shape[-1]
        if not FEWEST_ROWS <= num_rows <= MOST_ROWS:
            return linear(x, weight, bias)
        if self._can_pack and num_rows <= PACKED_ROWS and self._packing.is_allowed and weight.is_contiguous():
            product = self._packed_product(x.reshape(num_rows, -1), weight, bias)
        elif self._can_transpose and num_rows >= TRANSPOSED_FROM:
            product = torch.mm(weight, x.reshape(num_rows, -1).t()).t().contiguous()
            product = product if bias is None else product.add_(bias)
        else:
            return linear(x, weight, bias)
        return product if x.dim() == 2 else product.view(*x.shape[:-1], -1)

    def _packed_product(self, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self._call != self._packing.call or self._source is not weight:
            self._pack(weight)
        num_rows = rows.shape[0]
        if num_rows < PACKED_ROWS:
            rows = torch.cat((rows, rows.new_zeros(PACKED_ROWS - num_rows, rows.shape[1])))
        return torch.ops.mkl._mkl_linear(rows, self._packed, weight, bias, PACKED_ROWS)[:num_rows]

    def _pack(self, weight: Tensor) -> None:
        """Packs the weight, or finds that it has not changed since."""
        found = int(weight.detach().view(torch.int64).sum())
        if self._packed is None or self._source is not weight or found != self._sum:
            self._packed = torch.ops.mkl._mkl_reorder_linear_weight(weight.detach(), PACKED_ROWS)
        self._source, self._sum, self._call = weight, found, self._packing.call


def can_pack() -> bool:
    """Whether torch was built with MKL, and has the product of a packed weight."""
    return torch.backends.mkl.is_available() and hasattr(torch.ops.mkl, "_mkl_linear")
