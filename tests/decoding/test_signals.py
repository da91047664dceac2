"""Statistics of logits: what an exit drafts is what verification would take."""

import torch

from specbound.decoding.sequence import draft_choice
from specbound.decoding.signals import logit_statistics


def test_of_equally_probable_tokens_the_first_is_drafted_as_at_verification() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 500, generator=generator).mul_(4).round_().bfloat16()  # full of ties
    assert (logits.topk(2).values.diff() == 0).float().mean() > 0.2
    assert torch.equal(logit_statistics(logits).top_token, logits.argmax(-1))


def test_choices_of_many_rows_are_those_of_single_ones() -> None:
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(5, 40, generator=generator) * 8
    noised = scores.double() + torch.randn(40, generator=generator)
    noised[2, 1:] = -torch.inf  # one token is left
    together = draft_choice(scores, noised, torch.arange(40))
    for row in range(5):
        alone = draft_choice(scores[row : row + 1], noised[row : row + 1], torch.arange(40))
        assert all(torch.equal(a[row : row + 1], b) for a, b in zip(together, alone, strict=True))
    assert together.noised_margin[2] == 42.0
