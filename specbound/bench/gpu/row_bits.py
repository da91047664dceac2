"""At how many rows a matrix product gives a row the same bits, and what a call with so many rows costs.

The product is tried on sums that cancel (`specbound.decoding.model.row_blocks`): only rounding is left, and it differs
wherever the order of additions does.
"""

from collections.abc import Sequence

import torch
from torch.nn.functional import linear

from specbound.bench.gpu.clock import device_seconds
from specbound.decoding.model.row_blocks import MatrixProduct, cancelling_factors


def runs_of_equal_bits(product: MatrixProduct, counts: Sequence[int]) -> list[list[int]]:
    """Row counts, in groups that give the same bits; counts at which a row's place matters stand alone, negated."""
    probes, weight = cancelling_factors(product)
    groups: list[tuple[torch.Tensor, list[int]]] = []
    unstable: list[list[int]] = []
    for count in counts:
        results = torch.stack([linear(probe.expand(count, -1).contiguous(), weight) for probe in probes])
        first = results[:, :1]
        if not torch.equal(results, first.expand_as(results)):
            unstable.append([-count])
            continue
        for bits, members in groups:
            if torch.equal(bits, first):
                members.append(count)
                break
        else:
            groups.append((first.clone(), [count]))
    return [members for _, members in groups] + unstable


def product_microseconds(product: MatrixProduct, counts: Sequence[int], num_calls: int) -> list[float]:
    """Microseconds of the product at each row count, on the device."""
    generator = torch.Generator(product.device).manual_seed(0)
    shape = (product.outputs, product.inputs)
    weight = torch.randn(shape, generator=generator, device=product.device, dtype=torch.float32).to(product.dtype)
    found = []
    for count in counts:
        x = torch.randn(count, product.inputs, generator=generator, device=product.device).to(product.dtype)
        found.append(device_seconds(lambda x=x: linear(x, weight), product.device, num_calls) * 1e6)  # type: ignore[misc]
    return found


def shown_runs(runs: Sequence[Sequence[int]]) -> str:
    """`1 | 2 4 8 | place matters at 64`."""
    same = [" ".join(map(str, run)) for run in runs if run[0] > 0]
    places = [str(-run[0]) for run in runs if run[0] < 0]
    return " | ".join([*same, *(["place matters at " + " ".join(places)] if places else [])])
