"""The preallocated cache: appending, growing, rolling back, ragged rows, sliding windows."""

from collections.abc import Iterator

import pytest
import torch

from specbound.decoding.model.cache import DecodeCache, PreallocatedLayer, causal_mask
from specbound.decoding.model.ragged import RaggedCall


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
    keys, _ = layer.update_rows(tokens(70, 2, 2), tokens(70, 2, 2), RaggedCall([0, 1], [3, 1], [2, 2]))
    assert layer.lengths == [5, 3]
    assert keys[0, 0, :, 0].tolist() == [0, 1, 2, 70, 71]
    assert keys[1, 0, :3, 0].tolist() == [0, 70, 71]


def test_padding_of_a_ragged_call_is_not_written_and_needs_no_room() -> None:
    layer = PreallocatedLayer(capacity=5, batch_size=3)
    layer.update(tokens(0, 4, 3), tokens(0, 4, 3))
    layer.truncate(0, 2)
    call = RaggedCall([0, 2], [2, 4], [3, 1])
    keys, values = layer.update_rows(tokens(70, 3, 2), tokens(80, 3, 2), call)
    assert (layer.lengths, layer.capacity) == ([5, 4, 5], 5)
    assert keys[:, 0, :, 0].tolist() == [[0, 1, 70, 71, 72], [0, 1, 2, 3, 70]]
    assert values[:, 0, :, 0].tolist() == [[0, 1, 80, 81, 82], [0, 1, 2, 3, 80]]
    assert layer.keys[1, 0, :4, 0].tolist() == [0, 1, 2, 3]
    assert call.positions.tolist() == [[2, 3, 4], [4, 4, 4]]
    assert call.padded([torch.ones(1, 3, 2), torch.full((1, 1, 2), 2.0)])[:, :, 0].tolist() == [[1] * 3, [2] * 3]


def test_joined_rows_keep_their_tokens_and_a_kept_row_has_the_memory_of_one() -> None:
    caches = []
    for row, length in enumerate((3, 1, 6)):
        cache = DecodeCache([None, 4], capacity=2 + row)
        for layer in (0, 1):
            cache.update(tokens(10 * row, length), tokens(10 * row, length), layer)
        caches.append(cache)
    joined = DecodeCache.joined(caches)
    assert [joined.lengths(row) for row in range(3)] == [[3, 3], [1, 1], [6, 6]]
    assert all(layer.keys.numel() == 0 for cache in caches for layer in cache.layers)
    assert joined.layers[0].keys.shape == (3, 2, 8, 3)
    joined.keep_rows([2, 0])
    assert (joined.batch_size, joined.lengths(0), joined.lengths(1)) == (2, [6, 6], [3, 3])
    joined.keep_rows([1])
    for layer in joined.layers:
        assert layer.keys.shape == (1, 2, 8, 3)
        assert layer.keys.untyped_storage().nbytes() == 2 * 8 * 3 * 4
    keys, _ = joined.update(tokens(50, 1), tokens(50, 1), 1)
    assert keys[0, 0, :, 0].tolist() == [0, 1, 2, 50]


@pytest.fixture
def stale_memory_is_nan() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)  # fills new memory with nan
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("stale_memory_is_nan")
def test_memory_that_no_row_has_written_is_finite_because_masks_multiply_it_by_zero() -> None:
    caches = [DecodeCache([None], capacity=9) for _ in range(2)]
    for row, cache in enumerate(caches):
        cache.update(tokens(1, 1 + 8 * row), tokens(1, 1 + 8 * row), 0)
    (layer,) = DecodeCache.joined(caches).layers
    assert layer.lengths == [1, 9]
    assert layer.keys[0, :, 1:].eq(0).all() and layer.values[0, :, 1:].eq(0).all()
    layer.update_rows(tokens(1, 9, 1), tokens(1, 9, 1), RaggedCall([1], [9], [9]))
    assert layer.capacity == 18
    assert layer.keys[0, :, 1:].eq(0).all() and layer.values[0, :, 1:].eq(0).all()
    layer.keep_rows([0, 1])
    assert layer.keys[0, :, 1:].eq(0).all() and layer.values[0, :, 1:].eq(0).all()


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


def test_ragged_mask_shows_each_row_its_own_tokens_and_window() -> None:
    call = RaggedCall([0, 1], [1, 4], [2, 1])
    seen = call.mask(None, torch.float32) == 0
    assert seen.int().tolist() == [[[[1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]], [[[1, 1, 1, 1, 1], [1, 1, 1, 1, 1]]]]
    call = RaggedCall([0, 1], [3, 5], [1, 1])
    assert call.first_key(3) == 1
    assert (call.mask(3, torch.float32) == 0).int().tolist() == [[[[1, 1, 1, 0, 0]]], [[[0, 0, 1, 1, 1]]]]
    assert RaggedCall([0, 2], [5, 5], [1, 1]).mask(3, torch.float32) is None
