"""How probable the tokens of an answer were: the model's own distribution, before temperature, top_p and top_k.

Knows logits and texts; knows no queue and no HTTP.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from specbound.serve.prefixes import common_length
from specbound.serve.text_stream import Decode

# n tokens, V vocabulary

LEAST = -9999.0
"""What stands for minus infinity, which JSON does not have."""
CONTEXT = 8
"""Tokens before one that are decoded with it: a token may begin with a space there, or end a character."""


@dataclass(frozen=True, slots=True)
class Chance:
    """A token and the logarithm of its probability."""

    text: str
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenChance:
    """A token of an answer, and what else might have stood there."""

    chosen: Chance
    best: tuple[Chance, ...]
    """The most probable tokens, the best first, as many as were asked for; the chosen one may be among them."""
    offset: int
    """Characters of the answer before it."""


class ChancesOfAnswer:
    """The tokens of one answer as they come."""

    def __init__(self, decode: Decode, num_best: int) -> None:
        """decode: with special tokens by their names. num_best: most probable tokens that are told at each place"""
        self._decode, self._num_best = decode, num_best
        self._tokens: list[int] = []
        self._length = 0

    def push(self, tokens: Sequence[int], logits: Tensor) -> tuple[TokenChance, ...]:
        """The next tokens, by the logits (n, V) that each was chosen from."""
        logprobs = logits.float().log_softmax(-1)
        own = logprobs.gather(1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0].tolist()
        values, ids = (best.tolist() for best in logprobs.topk(min(self._num_best, logits.shape[1])))
        found = []
        for place, token in enumerate(tokens):
            best = tuple(map(self._chance, ids[place], values[place]))
            found.append(TokenChance(self._chance(token, own[place]), best, self._length))
            self._length += len(found[-1].chosen.text)
            self._tokens.append(token)
        return tuple(found)

    def _chance(self, token: int, logprob: float) -> Chance:
        """The text is what the token adds to those before it."""
        before = self._tokens[-CONTEXT:]
        text = self._decode([*before, token])
        return Chance(text[common_length(self._decode(before), text) :], max(logprob, LEAST))
