"""Trained exits on one model's head: what reads an exit's hidden state where the exit has a module of its own.

Drafts only: verification reads the whole head after the model's own norm, so the output does not depend on them. On a
row-stable twin the modules read row by row, so that drafts find live what a log recorded.
"""

import copy

import torch
from torch import Tensor, nn

from specbound.decoding.model.draft_head import DraftHead
from specbound.decoding.model.exit_modules import ExitModule, ExitPlace, ExitSet
from specbound_controller.errors import InputError

# n tokens, D hidden width


class TrainedHead(DraftHead):
    """The rows of a head that trained exits read, with the modules before them."""

    def __init__(self, head: nn.Module, exits: ExitSet, name: str, dtype: torch.dtype) -> None:
        """Copies rows and modules, once.

        Args:
            head: the model's head, or its row-stable twin's.
            exits: those of this model.
            name: the model's, for messages.
            dtype: of the model's hidden states, which the modules are cast to.

        Raises:
            InputError: rows of the head cannot be copied.
        """
        super().__init__(head, exits.vocabulary, name)
        self.exits = exits
        self._is_row_stable = self._row_stable(head) is not None
        self._modules: dict[int, ExitModule] = {
            layer: copy.deepcopy(module).to(self.weight.device, dtype).eval().requires_grad_(False)
            for layer, module in exits.modules.items()
        }

    def has(self, exit_layer: int) -> bool:
        """Whether an exit has a module; others are read raw, over the same tokens."""
        return exit_layer in self._modules

    def prepare(self, hidden: Tensor, place: ExitPlace) -> Tensor:
        """What the rows of the head read of an exit that has a module. (1, n, D) -> (1, n, D)"""
        module = self._modules[place.exit_layer]
        if not self.exits.shape.reads_state:
            return self._each(module, hidden, None, None)
        if place.state is None:
            raise InputError(
                f"exit layer {place.exit_layer} reads the full model's last state, and none was kept: begin a new call"
            )
        state = place.state.expand_as(hidden)
        most = self.exits.shape.max_distance
        distances = torch.stack([self._numbers(most)[min(k, most)] for k in place.distances])
        return self._each(module, hidden, state, distances.unsqueeze(0))

    def _numbers(self, most: int) -> Tensor:
        """0 to `most` where the modules are, so that no step copies numbers to a device. int64"""
        if not hasattr(self, "_counted"):
            self._counted = torch.arange(most + 1, device=self.weight.device)
        return self._counted

    def _each(self, module: ExitModule, hidden: Tensor, state: Tensor | None, distances: Tensor | None) -> Tensor:
        """A module on all rows at once, or on a row-stable twin on one after another."""
        num_rows = hidden.shape[1]
        if num_rows == 1 or not self._is_row_stable:
            return module(hidden, state, distances)
        rows = (slice(row, row + 1) for row in range(num_rows))
        outputs = [
            module(
                hidden[:, row],
                None if state is None else state[:, row],
                None if distances is None else distances[:, row],
            )
            for row in rows
        ]
        return torch.cat(outputs, dim=1)
