"""The head cut down to a draft vocabulary: what an exit reads where its drafts come from some tokens only.

Holds a copy of those rows of the head's weight, one after another in memory. Drafts only: verification reads the whole
head, so the output does not depend on it. Knows no layers and no policy.
"""

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from specbound.decoding.model.lean import is_bare
from specbound.decoding.model.row_blocks import RowBlocks
from specbound_controller.draft_vocabulary import DraftVocabulary
from specbound_controller.errors import InputError

# B rows, n tokens, D hidden width, V vocabulary, N tokens of the draft vocabulary


class DraftHead:
    """Some rows of a head. (B, n, D) -> (B, n, N), in the order of the vocabulary's ids."""

    def __init__(self, head: nn.Module, vocabulary: DraftVocabulary, name: str) -> None:
        """Copies the rows, once.

        Args:
            head: the model's head, or its row-stable twin's: then the copy is row-stable too, so that drafts find
                live what a log recorded.
            name: the model's, for messages.

        Raises:
            InputError: rows of the head cannot be copied, or the vocabulary is another model's.
        """
        require_plain(head, name)
        whole: Any = head
        self.vocabulary = vocabulary
        self.vocab_size: int = whole.out_features
        """V"""
        if int(vocabulary.ids[-1]) >= self.vocab_size:
            raise InputError(
                f"draft_vocabulary must be of a model with at least {vocabulary.ids[-1] + 1} tokens, "
                f"got {name} with {self.vocab_size}"
            )
        self.ids = torch.tensor(vocabulary.ids, device=whole.weight.device)
        """Token of each output. (N,) int64"""
        self._source: Tensor = whole.weight
        self._version = _version(whole.weight)
        self.weight = whole.weight.detach()[self.ids]
        self.bias = None if whole.bias is None else whole.bias.detach()[self.ids]
        self._project = self._row_stable(head) or self._linear

    def __call__(self, x: Tensor) -> Tensor:
        """x: what the whole head would read, (B, n, D)."""
        logits: Tensor = self._project(x)
        return logits

    def token(self, index: int) -> int:
        """The token of an output."""
        return int(self.vocabulary.ids[index])

    def places(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Output of each token, any where it has none, and whether it has one. (n,) -> (n,) int64, (n,) bool"""
        places = torch.searchsorted(self.ids, tokens).clamp_(max=len(self.ids) - 1)
        return places, self.ids[places] == tokens

    def full_rows(self, logits: Tensor) -> Tensor:
        """The same logits at their tokens' places, -inf elsewhere: what processors and noise read. (n, N) -> (n, V)"""
        rows = logits.new_full((logits.shape[0], self.vocab_size), -torch.inf)
        rows[:, self.ids] = logits
        return rows

    def is_current(self, head: nn.Module) -> bool:
        """Whether the rows are still those of a model's head; its owner may have trained or replaced it."""
        weight = getattr(head, "weight", None)
        is_same: bool = weight is self._source and _version(self._source) == self._version
        return is_same and not why_whole(head)

    def _linear(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)

    def _row_stable(self, head: nn.Module) -> Any:
        """The same in the row blocks of a row-stable twin; None where the head is the model's own."""
        forward = head.__dict__.get("forward")
        if not isinstance(forward, RowBlocks):
            return None
        num_tokens, width = self.weight.shape
        part = nn.Linear(width, num_tokens, bias=self.bias is not None, device="meta")
        part.weight = nn.Parameter(self.weight, requires_grad=False)
        if self.bias is not None:
            part.bias = nn.Parameter(self.bias, requires_grad=False)
        return RowBlocks(part, functools.partial(nn.Linear.forward, part), forward.find)


def require_plain(head: nn.Module, name: str) -> None:
    """Raises InputError where rows of a head cannot be copied. name: the model's."""
    reason = why_whole(head)
    if reason:
        raise InputError(f"draft_vocabulary must be left out for {name}, whose head {reason}: its rows are not cut")


def why_whole(head: nn.Module) -> str:
    """Why rows of a head cannot be copied; empty where they can."""
    if type(head) is not nn.Linear:
        return f"is a {type(head).__name__}"
    if not head.weight.is_floating_point() or head.weight.is_meta:
        return "holds no plain numbers"
    is_twin = isinstance(head.__dict__.get("forward"), RowBlocks)
    if not is_bare(head) and (not is_twin or head._forward_hooks or head._forward_pre_hooks):
        return "has hooks or a forward of its own"
    return ""


def _version(weight: Tensor) -> int:
    """Counts changes in place, where torch keeps count."""
    return 0 if weight.is_inference() else int(weight._version)
