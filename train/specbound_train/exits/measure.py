"""How far exits agree with the full model on held-out text: by exit and distance, beside the model's own head there."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from specbound.decoding.model.exit_modules import ExitModule
from specbound_train.exits.config import TrainExitsConfig
from specbound_train.exits.losses import Target
from specbound_train.exits.students import CHUNK_ROWS, Teacher
from specbound_train.exits.text import Piece

DISTANCES = (1, 2, 3, 6)
"""That agreement is measured at."""
RAW = "raw"
"""The model's own head at an exit, over all tokens: it reads no state, so any distance is the same."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of one exit at one distance, over some positions."""

    variant: str
    exit_layer: int
    distance: int
    """Of the newest verified position; 0 where it does not matter."""
    top1: float
    """Share of positions where the full model's own token is the exit's first choice."""
    top2: float
    """The same among its first two."""
    top4: float
    overlap: float
    """Chance that a draft sampled from the exit is accepted."""
    num_positions: int

    def row(self) -> dict[str, Any]:
        return {name: round(value, 5) if isinstance(value, float) else value for name, value in asdict(self).items()}


@dataclass(slots=True)
class _Sums:
    """Counts over positions."""

    ranks: list[float]
    """Positions whose token is among the first 1, 2, 4."""
    overlap: float = 0.0
    count: int = 0

    def add(self, target: Target, draft_logits: Tensor) -> None:
        rank = target.rank(draft_logits)
        for place, most in enumerate((1, 2, 4)):
            self.ranks[place] += float((rank < most).sum())
        self.overlap += float(target.overlap(draft_logits).sum())
        self.count += len(rank)

    def agreement(self, variant: str, exit_layer: int, distance: int) -> Agreement:
        count = max(1, self.count)
        first, second, fourth = (value / count for value in self.ranks)
        return Agreement(variant, exit_layer, distance, first, second, fourth, self.overlap / count, self.count)


@torch.no_grad()
def measure(
    teacher: Teacher, students: nn.ModuleDict, pieces: Sequence[Piece], config: TrainExitsConfig
) -> list[Agreement]:
    """Agreement of every student at every distance that it was trained for, and of the raw exits.

    Positions within prompts are left out: nothing is drafted there.
    """
    sums: dict[tuple[str, int, int], _Sums] = {}
    whole = torch.arange(teacher.adapter.vocab_size, device=teacher.adapter.device)
    left = config.validation_tokens
    for piece in pieces:
        if left <= 0:
            break
        ids = torch.from_numpy(piece.ids).to(teacher.adapter.device)[None]
        states = teacher.states(ids)
        chosen = [place for place in range(1, len(piece.ids) - 1) if piece.weights[place] > config.prompt_weight][:left]
        left -= len(chosen)
        for start in range(0, len(chosen), CHUNK_ROWS):
            place = torch.tensor(chosen[start : start + CHUNK_ROWS], device=ids.device)
            logits = teacher.logits(states[0][0, place])
            target = Target(logits, teacher.ids)
            for exit_layer in teacher.exit_layers:
                raw = teacher.raw_logits(states[exit_layer][0, place])
                sums.setdefault((RAW, exit_layer, 0), _Sums([0.0] * 3)).add(Target(logits, whole), raw)
            for name, module in students.items():
                assert isinstance(module, ExitModule)
                variant, exit_layer = name.partition("@")[0], int(name.partition("@")[2])
                hidden = states[exit_layer][0, place].float()
                for distance in DISTANCES if module.shape.reads_state else DISTANCES[:1]:
                    back = torch.full_like(place, distance)
                    state = states[0][0, (place - back).clamp(min=0)].float()
                    draft_logits = teacher.draft_logits(module(hidden, state, back))
                    key = variant, exit_layer, distance if module.shape.reads_state else 0
                    sums.setdefault(key, _Sums([0.0] * 3)).add(target, draft_logits)
    return [each.agreement(*key) for key, each in sums.items()]
