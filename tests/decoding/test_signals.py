"""Statistics of logits: what an exit drafts is what verification would take."""

import pytest
import torch

from specbound.decoding.sequence import draft_choice
from specbound.decoding.signals import best_tokens, logit_statistics, row_statistics


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


@pytest.mark.parametrize("size", [2, 2048, 131072])
@pytest.mark.parametrize("scale", [0.01, 4.0, 200.0])
def test_statistics_equal_their_definitions_in_double_precision(size: int, scale: float) -> None:
    logits = torch.randn(3, size, generator=torch.Generator().manual_seed(2)) * scale
    log_probabilities = logits.double().log_softmax(-1)
    top = log_probabilities.topk(2).values
    found = logit_statistics(logits)
    assert torch.equal(found.top_token, logits.argmax(-1))
    torch.testing.assert_close(found.confidence.double(), top[:, 0].exp(), atol=1e-6, rtol=1e-5)
    entropy = -(log_probabilities.exp() * log_probabilities).sum(-1)
    torch.testing.assert_close(found.entropy_nats.double(), entropy, atol=2e-4, rtol=1e-5)
    torch.testing.assert_close(found.margin.double(), top[:, 0] - top[:, 1], atol=1e-4, rtol=1e-5)
    assert row_statistics(logits[1:2]) == tuple(column[1].item() for column in found)


def test_the_largest_token_of_a_row_is_found_wherever_it_stands() -> None:
    logits = torch.tensor([[5.0, 1.0, 2.0], [1.0, 5.0, 2.0], [1.0, 2.0, 5.0]])
    assert best_tokens(logits) == logit_statistics(logits).top_token.tolist() == [0, 1, 2]
    assert logit_statistics(logits).margin.tolist() == [3.0, 3.0, 3.0]
    assert best_tokens(torch.tensor([[1.0, 7.0, 7.0]]).bfloat16()) == [1]


def test_impossible_tokens_have_no_share_in_the_entropy() -> None:
    logits = torch.tensor([[1.0, -torch.inf, 2.0, 0.5]])
    possible = logits[:, [0, 2, 3]]
    assert row_statistics(logits).entropy_nats == pytest.approx(row_statistics(possible).entropy_nats)
    assert logit_statistics(logits).entropy_nats.item() == pytest.approx(row_statistics(possible).entropy_nats)
