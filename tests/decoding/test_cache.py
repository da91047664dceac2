"""The preallocated cache: appending, growing, rolling back, ragged rows, sliding windows."""

import pytest
import torch

from specbound.decoding.cache import DecodeCache, PreallocatedLayer, causal_mask


def tokens(first: int, count: int, batch_size: int = 1) -> torch.Tensor:
    """(B, 2, count, 3) states whose values are their token's number."""
    return torch.arange(first, first + count).float().reshape(1, 1, -1, 1).expand(batch_size, 2, count, 3)


def test_appended_tokens_come_back_in_order_while_the_buffer_doubles() -> None:
    layer = PreallocatedLayer(capacity=2, batch_size=1)
    for first in range(0, 9, 3):
        keys, values = layer.update(tokens(first, 3), tokens(first, 3) + 100)
    assert layer.capacity == 16
    assert keys[0, 0, :, 0].tolist() == list(range(9))
    assert values[0, 1, :, 2].tolist() == [t + 100 for t in range(9)]


def test_rollback_is_a_counter_and_new_tokens_overwrite_the_forgotten_ones() -> None:
    layer = PreallocatedLayer(capacity=8, batch_size=1)
    layer.update(tokens(0, 6), tokens(0, 6))
    buffer = layer.keys
    layer.truncate(0, 4)
    keys, _ = layer.update(tokens(50, 1), tokens(50, 1))
    assert layer.keys is buffer
    assert keys[0, 0, :, 0].tolist() == [0, 1, 2, 3, 50]


def test_rows_of_different_length_are_appended_at_their_own_ends() -> None:
    layer = PreallocatedLayer(capacity=4, batch_size=2)
    layer.update(tokens(0, 3, 2), tokens(0, 3, 2))
    layer.truncate(1, 1)
    layer.update(tokens(70, 2, 2), tokens(70, 2, 2))
    assert layer.lengths == [5, 3]
    assert layer.keys[0, 0, :5, 0].tolist() == [0, 1, 2, 70, 71]
    assert layer.keys[1, 0, :3, 0].tolist() == [0, 70, 71]


def test_sliding_window_hands_out_only_visible_keys_and_rolls_back_past_the_window() -> None:
    layer = PreallocatedLayer(capacity=4, batch_size=1, window=3)
    layer.update(tokens(0, 10), tokens(0, 10))
    keys, _ = layer.update(tokens(10, 1), tokens(10, 1))
    assert keys[0, 0, :, 0].tolist() == [8, 9, 10]
    layer.truncate(0, 5)
    keys, _ = layer.update(tokens(20, 2), tokens(20, 2))
    assert keys[0, 0, :, 0].tolist() == [3, 4, 20, 21]


def test_truncating_to_more_than_is_held_is_refused() -> None:
    cache = DecodeCache([None, None])
    cache.update(tokens(0, 2), tokens(0, 2), 0)
    with pytest.raises(ValueError, match=r"length must be <= 2 .*got 3"):
        cache.layers[0].truncate(0, 3)


def test_mask_lets_each_query_see_itself_and_its_window() -> None:
    minimum = torch.finfo(torch.float32).min
    mask = causal_mask(2, 5, None, torch.float32, torch.device("cpu"))
    assert mask.tolist() == [[0, 0, 0, 0, minimum], [0, 0, 0, 0, 0]]
    windowed = causal_mask(2, 5, 2, torch.float32, torch.device("cpu"))
    assert windowed.tolist() == [[minimum, minimum, 0, 0, minimum], [minimum, minimum, minimum, 0, 0]]
