"""What is trained: modules at some exit layers of a frozen model, of one kind or of several side by side.

Teacher and students see the same hidden states, so variants that are compared cost one pass of the model together.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.model.draft_head import DraftHead
from specbound.decoding.model.exit_modules import ExitModule, ExitShape
from specbound_controller.draft_vocabulary import DraftVocabulary
from specbound_controller.errors import InputError
from specbound_train.exits.config import TrainExitsConfig

# B pieces, T tokens of the longest, n chosen positions, D hidden width, V vocabulary, N tokens of the draft vocabulary

MAIN = "main"
"""The variant that is kept."""
RAW_START = "raw-start"
"""The variant that begins at the raw exit (`specbound_train.exits.start`)."""
CHUNK_ROWS = 512
"""Positions whose logits are there at once: of the teacher, 4 bytes a token of the vocabulary each."""


def shape_of(config: TrainExitsConfig, hidden_size: int, variant: str = MAIN) -> ExitShape:
    """The modules of a variant."""
    shape = ExitShape(
        hidden_size,
        config.kind,
        config.num_blocks,
        config.width or 2 * hidden_size,
        config.rank,
        config.reads_state,
        config.max_distance,
    )
    if variant == "one-block":
        return replace(shape, num_blocks=1)
    if variant.startswith("low-rank"):
        shape = replace(shape, kind="low_rank")
    return replace(shape, reads_state=False) if variant.endswith("no-state") else shape


def first_norm(adapter: ModelAdapter) -> Tensor | None:
    """The weight (D,) that a module's norm begins with: that of the model's last norm, where it has one."""
    norm: Any = adapter.final_norm
    if norm is None:
        return None
    weight: Tensor = norm.weight.detach()
    if isinstance(norm, nn.LayerNorm):
        return weight.float()
    with torch.no_grad():
        found: Tensor = norm(torch.ones_like(weight).view(1, 1, -1))  # some families add one to their weights
    return found.view(-1).float()


class Teacher:
    """The frozen model, read at its exits and at its end. Nothing of it is kept."""

    def __init__(self, adapter: ModelAdapter, vocabulary: DraftVocabulary, exit_layers: tuple[int, ...]) -> None:
        """Raises InputError where the head cannot be cut down, or an exit layer is not in the model."""
        for exit_layer in exit_layers:
            if not 1 <= exit_layer < adapter.num_layers:
                raise InputError(
                    f"exit_layer must be in [1, {adapter.num_layers - 1}] for a {adapter.num_layers}-layer model, "
                    f"got {exit_layer}"
                )
        self.adapter, self.exit_layers = adapter, exit_layers
        head = adapter.draft_head(vocabulary)
        assert head is not None  # a vocabulary was given
        self.head: DraftHead = head
        self.ids = head.ids
        """Tokens of the draft vocabulary. (N,) int64"""

    @torch.no_grad()
    def states(self, ids: Tensor) -> dict[int, Tensor]:
        """Hidden states (B, T, D) after each exit layer, and under 0 after the last layer. ids: (B, T)"""
        adapter = self.adapter
        cache = adapter.new_cache(ids.shape[1], ids.shape[0])
        hidden, depth, states = adapter.embed(ids, 0), 0, {}
        for exit_layer in (*self.exit_layers, adapter.num_layers):
            hidden = adapter.run_layers(hidden, depth, exit_layer, cache, 0)
            depth = exit_layer
            states[exit_layer if exit_layer < adapter.num_layers else 0] = hidden
        return states

    @torch.no_grad()
    def logits(self, final: Tensor) -> Tensor:
        """Of the full model. (n, D) -> (n, V) float32"""
        return self.adapter.read_head(final.unsqueeze(0))[0].float()

    @torch.no_grad()
    def raw_logits(self, hidden: Tensor) -> Tensor:
        """Of the model's own head at an exit. (n, D) -> (n, V) float32"""
        return self.logits(hidden)

    def draft_logits(self, prepared: Tensor) -> Tensor:
        """What the rows of the draft vocabulary say of a module's output. (n, D) -> (n, N) float32"""
        rows = prepared.to(self.adapter.dtype).unsqueeze(0)
        return self.adapter.project_rows(rows, self.head)[0].float()


def new_modules(
    config: TrainExitsConfig, adapter: ModelAdapter, exit_layers: tuple[int, ...], variants: tuple[str, ...]
) -> nn.ModuleDict:
    """Variant and exit layer, as `student_name` names them -> its module, the same for the same seed."""
    modules, norm, size = nn.ModuleDict(), first_norm(adapter), int(adapter.config.hidden_size)
    for variant in variants:
        for exit_layer in exit_layers:
            torch.manual_seed(config.seed)
            modules[student_name(variant, exit_layer)] = ExitModule(shape_of(config, size, variant), norm)
    return modules.to(adapter.device)


def student_name(variant: str, exit_layer: int) -> str:
    return f"{variant}@{exit_layer}"
