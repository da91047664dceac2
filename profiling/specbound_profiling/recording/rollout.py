"""Roll-outs: what every exit says after a wrong draft, on the branch that a live draft would go on along.

Which wrong drafts are followed is a function of (seed, prompt, position, exit layer) alone, so that a resumed run, or
another machine, follows the same ones. Knows no trace and no file.
"""

# E exit layers, D hidden width, V vocabulary

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.model.cache import DecodeCache
from specbound.decoding.model.draft_head import DraftHead
from specbound.decoding.model.exit_modules import ExitPlace
from specbound.decoding.model.trained_head import TrainedHead
from specbound.decoding.noise import MASK64, mix64


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    """Which wrong drafts are followed, and how far."""

    rate: float
    """Share of the wrong drafts that are followed, in [0, 1]."""
    width: int
    """Longest draft whose rest is recorded: at most so many tokens less the wrong one. At least 1."""
    seed: int = 0

    def is_drawn(self, prompt_index: int, position: int, exit_layer: int) -> bool:
        """Whether the exit's draft at a position of a prompt is followed if it is wrong."""
        key = self.seed & MASK64
        for value in (prompt_index, position, exit_layer):
            key = mix64((mix64(key) + value) & MASK64)
        return key < self.rate * 2.0**64


def run_exits(
    adapter: ModelAdapter, hidden: Tensor, exit_layers: Sequence[int], cache: DecodeCache, position: int
) -> list[Tensor]:
    """Runs tokens from the embedding up to the last exit; the hidden state at each. (1, n, D) -> E x (1, n, D)"""
    states = []
    for first, last in pairwise((0, *exit_layers)):
        hidden = adapter.run_layers(hidden, first, last, cache, position)
        states.append(hidden)
    return states


def branch_logits(
    adapter: ModelAdapter,
    token: int,
    exit_layers: Sequence[int],
    cache: DecodeCache,
    position: int,
    head: DraftHead | None = None,
    verified: Tensor | None = None,
    distance: int = 1,
) -> Tensor:
    """What every exit says after a draft token at `position`, which joins the cache up to the last exit.

    (E, V), or (E, N) by a draft head. verified: for trained exits the full model's state (1, 1, D) at the newest
    verified position, which is `distance` back.
    """
    hidden = adapter.embed(torch.tensor([[token]], device=adapter.device), position)
    states = run_exits(adapter, hidden, exit_layers, cache, position)
    return exit_logits(adapter, torch.cat(states, dim=1), exit_layers, head, verified, [distance])


def exit_logits(
    adapter: ModelAdapter,
    states: Tensor,
    exit_layers: Sequence[int],
    head: DraftHead | None,
    verified: Tensor | None,
    distances: Sequence[int],
) -> Tensor:
    """What every exit says at n positions. states: (1, n * E, D), the exits of a position together

    (n * E, V), or (n * E, N) by a draft head. verified: for trained exits, (1, n, D).
    """
    if not isinstance(head, TrainedHead):
        return adapter.read_exit(states, head)[0]
    by_exit = states.view(1, -1, len(exit_layers), states.shape[-1]).unbind(2)
    logits = [
        adapter.read_exit(hidden, head, ExitPlace(exit_layer, verified, distances))[0]
        for exit_layer, hidden in zip(exit_layers, by_exit, strict=True)
    ]
    return torch.stack(logits, dim=1).flatten(0, 1)
