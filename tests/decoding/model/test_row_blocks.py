"""Row counts at which a matrix product gives a row the same bits wherever it stands."""

import pytest
import torch
from torch import nn

from specbound.decoding.model.row_blocks import MatrixProduct, find_block_rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_block_rows_found_hold_for_other_numbers(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    for inputs, outputs in ((32, 32), (48, 32), (64, 64), (33, 17), (320, 64)):
        product = MatrixProduct(inputs, outputs, dtype, torch.device("cpu"), False, False, torch.get_num_threads())
        fewest, most = find_block_rows(product)
        assert 1 <= fewest <= most <= 8
        weight = torch.randn(outputs, inputs, generator=generator).to(dtype)
        rows = torch.randn(840, inputs, generator=generator).to(dtype)
        results = [
            torch.cat([nn.functional.linear(block, weight) for block in rows.split(count)])
            for count in range(fewest, most + 1)
        ]
        for count, result in zip(range(fewest, most + 1), results, strict=True):
            whole = 840 // count * count  # the last block may be short
            assert torch.equal(result[:whole], results[0][:whole]), (inputs, outputs, count)
