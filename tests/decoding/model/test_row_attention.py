"""The keys that a mask shows to each query row."""

import pytest
import torch

from specbound.decoding.model.cache import causal_mask, visible_keys
from specbound.decoding.model.row_attention import causal_ranges, visible_ranges
from specbound_controller.errors import UnsupportedModelError


def test_visible_ranges_of_masks_by_hand() -> None:
    assert visible_ranges(None, 2, 5) == [[(0, 4)], [(0, 5)]]
    low = torch.finfo(torch.float32).min
    window = torch.tensor([[0.0, 0, low, low], [low, 0, 0, low], [low, low, 0, 0]])[None, None]
    assert visible_ranges(window, 3, 4) == [[(0, 2)], [(1, 3)], [(2, 4)]]
    padded = torch.stack((window[0], window[0].roll(1, 1)))
    assert visible_ranges(padded[:, :, :1], 1, 4) == [[(0, 2), (2, 4)]]
    assert visible_ranges(torch.full((1, 1, 1, 4), low), 1, 4) == [[(0, 4)]]
    with pytest.raises(UnsupportedModelError, match="one run of keys"):
        visible_ranges(torch.tensor([[[[0.0, low, 0.0]]]]), 1, 3)


@pytest.mark.parametrize("window", [None, 1, 3, 8])
@pytest.mark.parametrize(("num_queries", "past"), [(1, 0), (2, 5), (4, 3), (6, 0)])
def test_causal_ranges_are_those_of_the_mask(num_queries: int, past: int, window: int | None) -> None:
    keys = visible_keys(past, num_queries, window)
    mask = causal_mask(num_queries, keys, window, torch.float32, torch.device("cpu"))[None, None]
    assert causal_ranges(num_queries, keys, window) == visible_ranges(mask, num_queries, keys)
