"""Where an output first differs from plain decoding's, and whether rounding explains it.

The noise is measured with the model's own forward pass over transformers' own cache. Nothing of the decoder's adapter,
masks or caches takes part, so that a mistake of theirs cannot pass for noise. Knows no policy and no clock.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from specbound.decoding.request import Request
from specbound.decoding.sequence import Sequence as DecodedSequence

# P passes, V vocabulary

NOISE_FACTOR = 4.0
"""Rounding explains a choice where logits need not move, one against another, by more than this times the noise."""
BLOCK_ROWS = (2, 3, 4, 5, 7, 9, 16)
"""Rows per call that are compared with one row per call: kernels change between them."""
NEAR_POSITIONS = 8
"""The noise is the largest of so many positions up to the one that counts: at a single one rounding may cancel."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Where an output first differs from plain decoding's."""

    method: str
    prompt_id: str
    position: int
    """Index among the new tokens."""
    expected: int | None
    """Plain decoding's token there; None where it had ended."""
    actual: int | None
    """The other output's token there; None where it had ended."""
    margin: float
    """Best less second best score of the full model there, decoded row by row: logits after the processors, with the
    sampling noise where there is one."""
    noise: float
    """Largest difference of any logit there, and just before, between passes of one row and of several rows from the
    prompt on; at least the resolution of the number format. 0 at the first new token, which all take from one pass."""
    is_near_tie: bool
    """Whether rounding explains both tokens; never where bitwise equality was promised."""

    @property
    def verdict(self) -> str:
        return "near-tie" if self.is_near_tie else "bug"

    def describe(self) -> str:
        """One line for people."""
        place = f"{self.method} differs from plain decoding at new token {self.position} of {self.prompt_id}"
        tokens = f"token {_shown(self.actual)} in place of {_shown(self.expected)}"
        return f"{place}: {self.verdict}, {tokens}, margin {self.margin:.2g}, noise {self.noise:.2g}"


def find_difference(
    method: str,
    prompt_id: str,
    model: PreTrainedModel,
    request: Request,
    expected: Sequence[int],
    actual: Sequence[int],
    exactness: str = "token",
) -> Difference | None:
    """The first difference between two outputs of one request, with its verdict; None where they are equal.

    Args:
        method: what gave `actual`.
        prompt_id: for the report.
        model: the full model.
        request: prompt, processors and seed of both outputs; its processors must keep no state.
        expected: new tokens of plain decoding.
        actual: new tokens of the other method.
        exactness: the level that was promised; at `bitwise` every difference is a bug.
    """
    position = first_difference(expected, actual)
    if position is None:
        return None
    first, second = (tokens[position] if position < len(tokens) else None for tokens in (expected, actual))
    logits, noise = passes(model, request.prompt, expected[:position], actual[position:])
    sequence = _continued(request, expected[:position], logits)
    margin = sequence.top_margin(logits[:1])
    is_near_tie = exactness != "bitwise" and first is not None and second is not None
    if is_near_tie and first is not None and second is not None:
        is_near_tie = all(
            _is_explained(request, expected[:position], logits, token, other, noise)
            for token, other in ((first, second), (second, first))
        )
    return Difference(method, prompt_id, position, first, second, margin, noise, is_near_tie)


def first_difference(expected: Sequence[int], actual: Sequence[int]) -> int | None:
    """Index of the first token that differs, or that only one of the two has; None where they are equal."""
    if list(expected) == list(actual):
        return None
    pairs = enumerate(zip(expected, actual, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(expected), len(actual)))


@torch.inference_mode()
def passes(
    model: PreTrainedModel, prompt: Sequence[int], tokens: Sequence[int], following: Sequence[int]
) -> tuple[Tensor, float]:
    """Logits after the prompt and `tokens`, computed in several ways that differ by rounding alone, and the noise.

    The first way is plain decoding's: the prompt in one pass, then one row per call. The others take n rows per call,
    once with the row that counts at the end of its block, once at the beginning of a block that goes on with
    `following`. All begin at the prompt, because cached rows carry the rounding of the call that computed them.

    Returns (P, V) float64 and what `Difference.noise` says.
    """
    count = len(tokens)
    if count == 0:
        return _last_logits(model, prompt, [], 0)[0].double(), 0.0
    alone = _last_logits(model, prompt, [[token] for token in tokens], count)
    scale = float(alone[-1].abs().max())
    noise = torch.finfo(alone.dtype).eps * scale
    rows = [alone[-1].double()]
    for size in BLOCK_ROWS:
        ending = _blocks(tokens, size)
        going_on = [*_blocks(tokens[:-1], size), [tokens[-1], *following[: size - 1]]]
        for blocks in (ending, going_on):
            together = _last_logits(model, prompt, blocks, count)
            noise = max(noise, float((together.double() - alone.double()).nan_to_num().abs().max()))
            rows.append(together[-1].double())
    return torch.stack(rows), noise


def _blocks(tokens: Sequence[int], size: int) -> list[list[int]]:
    """Blocks of `size` tokens, the first one shorter where they do not come out even."""
    head = len(tokens) % size
    blocks = [list(tokens[:head])] if head else []
    return blocks + [list(tokens[i : i + size]) for i in range(head, len(tokens), size)]


def _last_logits(model: PreTrainedModel, prompt: Sequence[int], blocks: Sequence[Sequence[int]], count: int) -> Tensor:
    """Logits of the last rows up to the `count`-th one after the prompt, each block in a call of its own. (n, V)

    n is `NEAR_POSITIONS`, or fewer where fewer rows follow the prompt; without any, the prompt's last row counts.
    """
    cache = DynamicCache(config=model.config)
    first = max(0, count - NEAR_POSITIONS)
    kept, position = [], 0
    for block in (prompt, *blocks):
        ids = torch.tensor([list(block)], device=model.device)
        is_near = block is not prompt and position + len(block) > first
        logits = model(
            input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=len(block) if is_near else 1
        ).logits
        if is_near:
            kept.append(logits[0, max(0, first - position) : count - position])
        position += len(block) if block is not prompt else 0
    return torch.cat(kept) if kept else logits


def _is_explained(
    request: Request, tokens: Sequence[int], logits: Tensor, token: int, other: int, noise: float
) -> bool:
    """Whether `token` is chosen in a pass that was made, or in one that differs from plain decoding's by the noise."""
    candidates = (*logits, *_moved(logits[0], token, other, noise))
    return any(_continued(request, tokens, row).commit_token(row[None]) == token for row in candidates)


def _moved(logits: Tensor, token: int, other: int, noise: float) -> Iterator[Tensor]:
    """Logits moved, one against another, by `NOISE_FACTOR` times the noise, in favour of `token`. (V,) each

    Besides lifting one token above all or dropping the other below all: what changes the tokens that top-p and min-p
    keep, which is to move all tokens above one against all others.
    """
    reach = NOISE_FACTOR / 2 * noise
    for pivot, signed in ((token, reach), (other, -reach)):
        one = logits - signed
        one[pivot] = logits[pivot] + signed
        yield one
        yield torch.where(logits > logits[pivot], logits - signed, logits + signed)


def _continued(request: Request, tokens: Sequence[int], like: Tensor) -> DecodedSequence:
    sequence = DecodedSequence(request, like.device)
    sequence.extend(tokens)
    return sequence


def _shown(token: int | None) -> str:
    return "the end" if token is None else str(token)
