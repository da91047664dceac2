"""Trained exits as modules: what turns an exit's hidden state into what the frozen head reads.

A module reads the hidden state of a token after e layers, exact for draft tokens too, and, where its shape says so, the
full model's last hidden state at the newest verified position and how far back that is. It keeps no keys and values of
its own, so nothing has to be filled, moved or rolled back with the cache. Knows no model and no file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from specbound_controller.draft_vocabulary import DraftVocabulary
from specbound_controller.errors import require_at_least, require_one_of

# n tokens, D hidden width, W width of an MLP, R rank, K longest distance

KINDS = ("mlp", "low_rank")
"""`mlp`: gated perceptrons on what is read; `low_rank`: one matrix of low rank beside the identity (AdaDecode)."""
EPSILON = 1e-6
"""Of the norms."""


@dataclass(frozen=True, slots=True)
class ExitShape:
    """What the modules of one set are made of."""

    hidden_size: int
    """D of the model, at least 1."""
    kind: str = "mlp"
    """One of `KINDS`."""
    num_blocks: int = 2
    """Gated perceptrons one after another, at least 1; of kind mlp."""
    width: int = 1
    """W, at least 1; of kind mlp."""
    rank: int = 1
    """R, at least 1; of kind low_rank."""
    reads_state: bool = True
    """Whether it reads the full model's last state at the newest verified position."""
    max_distance: int = 8
    """K: how many places back that position is told apart; one farther back counts as K. At least 1."""

    def __post_init__(self) -> None:
        require_one_of(KINDS, kind=self.kind)
        require_at_least(
            1,
            hidden_size=self.hidden_size,
            num_blocks=self.num_blocks,
            width=self.width,
            rank=self.rank,
            max_distance=self.max_distance,
        )


class GatedPerceptron(nn.Module):
    """A residual block. Begins as the identity. (..., D) -> (..., D)"""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(size, eps=EPSILON)
        self.gate = nn.Linear(size, width, bias=False)
        self.up = nn.Linear(size, width, bias=False)
        self.down = nn.Linear(width, size, bias=False)
        nn.init.zeros_(self.down.weight)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm(x)
        output: Tensor = x + self.down(nn.functional.silu(self.gate(inner)) * self.up(inner))
        return output


class LowRank(nn.Module):
    """A matrix of low rank; begins as zero. (..., D) -> (..., D)"""

    def __init__(self, size: int, rank: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(size, eps=EPSILON)
        self.down = nn.Linear(size, rank, bias=False)
        self.up = nn.Linear(rank, size, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.up(self.down(self.norm(x)))
        return output


class ExitModule(nn.Module):
    """One exit's module. Begins as the raw exit: the hidden state, normed."""

    def __init__(self, shape: ExitShape, norm_weight: Tensor | None = None) -> None:
        """norm_weight: of the model's last norm (D,), where it has one to begin with."""
        super().__init__()
        self.shape = shape
        size = shape.hidden_size
        if shape.reads_state:
            self.distance = nn.Embedding(shape.max_distance, size)
            nn.init.zeros_(self.distance.weight)
        if shape.kind == "low_rank":
            self.of_hidden: nn.Module = LowRank(size, shape.rank)
            if shape.reads_state:
                self.of_state: nn.Module = LowRank(size, shape.rank)
        else:
            self.hidden_norm = nn.RMSNorm(size, eps=EPSILON)
            self.of_hidden = nn.Linear(size, size, bias=False)
            nn.init.eye_(self.of_hidden.weight)
            if shape.reads_state:
                self.state_norm = nn.RMSNorm(size, eps=EPSILON)
                self.of_state = nn.Linear(size, size, bias=False)
                nn.init.zeros_(self.of_state.weight)
            self.blocks = nn.ModuleList(GatedPerceptron(size, shape.width) for _ in range(shape.num_blocks))
        self.norm = nn.RMSNorm(size, eps=EPSILON)
        if norm_weight is not None:
            with torch.no_grad():
                self.norm.weight.copy_(norm_weight)

    def forward(self, hidden: Tensor, state: Tensor | None, distance: Tensor | None) -> Tensor:
        """What the head reads.

        hidden: (..., D) at the exit. state: (..., D) of the full model, where the shape reads it. distance: (...) int64
        from 1 on, of that state.
        """
        shape = self.shape
        if shape.kind == "low_rank":
            x: Tensor = hidden + self.of_hidden(hidden)
            if shape.reads_state:
                assert state is not None and distance is not None  # the caller looks at the shape
                x = x + self.of_state(state) + self._of(distance)
        else:
            x = self.of_hidden(self.hidden_norm(hidden))
            if shape.reads_state:
                assert state is not None and distance is not None
                x = x + self.of_state(self.state_norm(state)) + self._of(distance)
            for block in self.blocks:
                x = block(x)
        output: Tensor = self.norm(x)
        return output

    def _of(self, distance: Tensor) -> Tensor:
        embedded: Tensor = self.distance((distance - 1).clamp(0, self.shape.max_distance - 1))
        return embedded


@dataclass(frozen=True, slots=True, eq=False)
class ExitSet:
    """The trained exits of one model."""

    shape: ExitShape
    modules: Mapping[int, ExitModule]
    """Exit layer -> its module, in eval mode."""
    vocabulary: DraftVocabulary
    """Tokens that they draft; its `exits` names this set."""

    @property
    def exit_layers(self) -> tuple[int, ...]:
        """Shallow to deep."""
        return tuple(sorted(self.modules))


@dataclass(frozen=True, slots=True)
class ExitPlace:
    """Where some tokens stand that an exit is read for."""

    exit_layer: int
    state: Tensor | None
    """The full model's last hidden state at the newest verified position before each token, (1, n, D), or (1, 1, D) for
    all of them; None where nobody kept it."""
    distances: Sequence[int]
    """How many places before the token that it drafts that position's own token is, less one: 1 for a step's first
    draft. (n,)"""
