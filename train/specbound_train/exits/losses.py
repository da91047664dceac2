"""What an exit loses by not saying what the full model says. Knows no module."""

import torch
from torch import Tensor

from specbound_controller.errors import InputError

# n positions, V vocabulary, N tokens of the draft vocabulary


class Target:
    """What the full model says at some positions, over the draft vocabulary."""

    def __init__(self, logits: Tensor, ids: Tensor) -> None:
        """logits: of the full model, (n, V) float32. ids: the draft vocabulary, ascending (N,)."""
        self.best = logits.argmax(-1)
        """The full model's own token. (n,) int64"""
        self.place = torch.searchsorted(ids, self.best).clamp_(max=len(ids) - 1)
        """Its place in the draft vocabulary, any where it is not in it. (n,)"""
        self.is_drafted = ids[self.place] == self.best
        """Whether it is in it. (n,) bool"""
        self.chances = logits.softmax(-1)[:, ids]
        """Its chances of the draft vocabulary's tokens; what is missing to 1 is the rest's. (n, N)"""

    def loss(self, draft_logits: Tensor, kind: str) -> Tensor:
        """Of an exit's logits (n, N), nats or chances per position. (n,)

        A position whose token no exit can draft teaches `label` nothing.
        """
        if kind == "label":
            return self._label(draft_logits)
        if kind == "kl":  # less the full model's own entropy, which no exit changes
            return -(self.chances * draft_logits.log_softmax(-1)).sum(-1)
        if kind == "acceptance":
            return self._refused(draft_logits)
        if kind == "mixed":
            return self._label(draft_logits) + self._refused(draft_logits)
        raise InputError(f"loss must be label, kl, acceptance or mixed, got {kind!r}")

    def _label(self, draft_logits: Tensor) -> Tensor:
        loss = torch.nn.functional.cross_entropy(draft_logits, self.place, reduction="none")
        return loss * self.is_drafted

    def _refused(self, draft_logits: Tensor) -> Tensor:
        """Chance that a draft that is sampled from the exit is refused: 1 - sum of the smaller chances."""
        return 1.0 - self.overlap(draft_logits)

    def overlap(self, draft_logits: Tensor) -> Tensor:
        """Chance that a sampled draft is accepted. (n,)"""
        return torch.minimum(self.chances, draft_logits.softmax(-1)).sum(-1)

    def rank(self, draft_logits: Tensor) -> Tensor:
        """How many tokens the exit puts before the full model's own one; N where it cannot draft it. (n,) int64"""
        own = draft_logits.gather(-1, self.place[:, None])
        before = (draft_logits > own).sum(-1)
        return torch.where(self.is_drafted, before, draft_logits.shape[-1])
