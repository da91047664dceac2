"""What a product of several rows costs beside one row's: a measurement of `specbound.bench.micro`."""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn.functional import linear

from specbound.bench.micro.timing import interleaved
from specbound.decoding.model.products import MOST_ROWS, PACKED_ROWS, FewRowsProduct, Packing

SHAPES = ((576, 576), (1536, 576), (576, 1536), (49152, 576))
"""Outputs and inputs: SmolLM2-135M's."""
ROWS = (1, 2, 3, 4, 6, PACKED_ROWS, 12, MOST_ROWS)
MEMORY = 1 << 28
"""Bytes of weights of one shape, more than a cache holds: each call reads another."""


@torch.inference_mode()
def products(num_rounds: int = 5) -> None:
    """Times of fp32 products by rows, in those of torch's own product of one row: torch's, ours packed and not."""
    print("| outputs x inputs | product | " + " | ".join(f"{rows} rows" for rows in ROWS) + " |")
    print("|---|---|" + "---:|" * len(ROWS))
    for num_outputs, num_inputs in SHAPES:
        size = 4 * num_outputs * num_inputs
        modules = [nn.Linear(num_inputs, num_outputs, bias=False) for _ in range(max(2, MEMORY // size))]
        packing, none = Packing(0), Packing(0)
        none.is_allowed = False
        calls: dict[str, Callable[[], object]] = {}
        for rows in ROWS:
            x = torch.randn(rows, num_inputs)
            calls[f"torch {rows}"] = over([lambda m=m, x=x: linear(x, m.weight) for m in modules])  # type: ignore[misc]
            for name, kind in (("packed", packing), ("transposed", none)):
                ours = [FewRowsProduct(module, kind) for module in modules]
                calls[f"{name} {rows}"] = over([lambda f=f, x=x: f(x) for f in ours])  # type: ignore[misc]
        seconds = interleaved(calls, num_rounds)
        for name in ("torch", "packed", "transposed"):
            cells = [f"{seconds[f'{name} {rows}'] / seconds['torch 1']:.2f}" for rows in ROWS]
            print(f"| {num_outputs} x {num_inputs} | {name} | " + " | ".join(cells) + " |", flush=True)


def over(calls: Sequence[Callable[[], object]]) -> Callable[[], object]:
    """One call that makes all of some, so that none finds its weights in the cache."""
    return lambda: [call() for call in calls]
