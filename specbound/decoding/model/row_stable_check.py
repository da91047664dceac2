"""Tries on the machine at hand whether rows computed together equal rows computed alone, to the last bit."""

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.model.families import name_of
from specbound_controller.errors import UnsupportedModelError

# B sequences, n new tokens, T positions, V vocabulary

MIN_TEST_POSITIONS = 18
TEST_BLOCKS = ((17, 1), (2, 3, 4, 8), (6, 5, 7), (9,))
"""Rows of the calls of each pass of the self-test, in turn; the last pass runs two sequences at once."""
MAX_TEST_WINDOW = 64


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
