"""A trace's columns, from the logits of exits and from what the context says. Knows no model and no prompt."""

# E exit layers, K temperatures, V vocabulary, N tokens of a draft vocabulary, n positions, R rows (positions x exits)

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from specbound.decoding.model.draft_head import DraftHead
from specbound.decoding.signals import logit_statistics
from specbound.decoding.step import DraftChoice
from specbound_controller.lookup import NO_TOKEN, Lookup, lookup_confidence


def lookup_columns(
    found: Sequence[Lookup], num_temperatures: int, labels: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """A trace's columns of exit layer 0; `ExitScore` says what stands in them, where there are no logits.

    Args:
        found: what the context says at each position. n of them
        labels: the full model's tokens (n,), where they are known.
    """
    tokens, lengths = (np.array([each[k] for each in found], dtype=np.int64) for k in range(2))
    probability, entropy, margin, recency = (np.array([each[k] for each in found], dtype=float) for k in range(2, 6))
    confidence = lookup_confidence(lengths)
    columns = {
        "draft_token": tokens,
        "top1_token": tokens,
        "confidence": confidence,
        "entropy_nats": entropy,
        "margin": margin,
        "noised_margin": recency,
        "draft_probability": probability,
        "confidence_at": np.tile(confidence[:, None], num_temperatures),
        "label_nll_at": np.full((len(tokens), num_temperatures), np.nan),
    }
    return columns if labels is None else columns | {"is_accepted": tokens == labels}


def candidate_columns(scores: Tensor, head: DraftHead | None, count: int) -> dict[str, np.ndarray]:
    """A trace's columns of the tokens that exits would add to a tree, at temperature 1.

    scores: (R, V), or (R, N) of a draft head; under sampling with noise.
    """
    best, places = scores.softmax(-1).topk(min(count, scores.shape[-1]))
    tokens = places if head is None else head.ids[places.to(head.ids.device)]
    return {"candidates": tokens.cpu().numpy(), "candidate_chances": best.float().cpu().numpy()}


def no_candidates(num_rows: int, count: int) -> dict[str, np.ndarray]:
    """The same of exit layer 0, which has sources of draft trees in its place."""
    return {
        "candidates": np.full((num_rows, count), NO_TOKEN, dtype=np.int64),
        "candidate_chances": np.zeros((num_rows, count), dtype=np.float32),
    }


def unknown_columns(shape: tuple[int, int], num_temperatures: int) -> dict[str, np.ndarray]:
    """Columns of exits with a head, (n, E), at rows of a branch where nobody has read them."""
    names = ("confidence", "entropy_nats", "margin", "noised_margin", "draft_probability")
    return {
        **{name: np.full(shape, NO_TOKEN, dtype=np.int64) for name in ("draft_token", "top1_token")},
        **{name: np.full(shape, np.nan, dtype=np.float32) for name in names},
        "confidence_at": np.full((*shape, num_temperatures), np.nan, dtype=np.float32),
    }


def exit_columns(
    logits: Tensor,
    temperatures: Sequence[float],
    choice: DraftChoice | None = None,
    labels: Tensor | None = None,
    head: DraftHead | None = None,
) -> dict[str, np.ndarray]:
    """A trace's columns of exits.

    Args:
        logits: (R, V) float32, or (R, N) of a draft head.
        choice: what the exits draft; None takes the most probable tokens.
        labels: the full model's tokens (R,); without them the columns that need them are left out.
        head: what the logits were read by, where it was not the whole head. `label_nll_at` is nan where it has no row
            for the full model's token, which then has no probability at any temperature.
    """
    statistics = logit_statistics(logits)
    top1_token = statistics.top_token if head is None else head.ids[statistics.top_token.to(head.ids.device)]
    if choice is None:
        choice = DraftChoice(top1_token, statistics.margin, statistics.confidence)
    below_top = logits - logits.amax(-1, keepdim=True)
    powers, totals = torch.empty_like(below_top), []
    for temperature in temperatures:  # in place: new memory for every temperature would cost more than the arithmetic
        totals.append(torch.mul(below_top, 1.0 / temperature, out=powers).exp_().sum(-1))
    total = torch.stack(totals, dim=-1)
    columns = {
        "draft_token": choice.token,
        "top1_token": top1_token,
        "confidence": statistics.confidence,
        "entropy_nats": statistics.entropy_nats,
        "margin": statistics.margin,
        "noised_margin": choice.noised_margin.float(),
        "draft_probability": choice.probability,
        "confidence_at": total.reciprocal(),
    }
    if labels is not None:
        place, is_read = (labels, None) if head is None else head.places(labels)
        label = below_top.gather(-1, place[:, None]) / below_top.new_tensor(temperatures)
        nll = total.log() - label
        if is_read is not None:
            nll.masked_fill_(~is_read[:, None], torch.nan)
        columns |= {"is_accepted": choice.token == labels, "label_nll_at": nll}
    return {name: values.cpu().numpy() for name, values in columns.items()}
