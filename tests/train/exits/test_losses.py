"""Losses and agreement of exits, by hand."""

import math

import pytest
import torch

from specbound_controller.errors import InputError
from specbound_train.exits.losses import Target
from specbound_train.exits.training import drawn_distances, lr_scale
from tests.train.exits.conftest import settings

IDS = torch.tensor([0, 2])
"""Two of three tokens may be drafted."""
CHANCES = torch.tensor([[0.5, 0.2, 0.3], [0.1, 0.7, 0.2]])
DRAFT = torch.tensor([[0.25, 0.75], [0.5, 0.5]])


def target() -> Target:
    return Target(CHANCES.log(), IDS)


def test_losses_by_hand() -> None:
    draft = DRAFT.log()
    of = {kind: target().loss(draft, kind).tolist() for kind in ("label", "kl", "acceptance", "mixed")}
    assert of["label"] == pytest.approx([-math.log(0.25), 0.0])  # the second position's token cannot be drafted
    assert of["kl"] == pytest.approx(
        [-0.5 * math.log(0.25) - 0.3 * math.log(0.75), -(0.1 + 0.2) * math.log(0.5)], abs=1e-6
    )
    assert of["acceptance"] == pytest.approx([1 - 0.25 - 0.3, 1 - 0.1 - 0.2])
    assert of["mixed"] == pytest.approx([a + b for a, b in zip(of["label"], of["acceptance"], strict=True)])
    with pytest.raises(InputError, match="loss must be label, kl"):
        target().loss(draft, "other")


def test_rank_counts_the_tokens_before_the_full_models_own() -> None:
    assert target().rank(DRAFT.log()).tolist() == [1, 2]


def test_distances_are_drawn_as_drafting_meets_them_and_never_reach_before_the_text(tmp_path: object) -> None:
    config = settings(tmp_path, tmp_path, distance_decay=0.5, max_distance=4)  # type: ignore[arg-type]
    places = torch.full((20_000,), 100)
    drawn = drawn_distances(places, config, 3)
    shares = torch.bincount(drawn, minlength=5)[1:] / len(places)
    assert torch.allclose(shares, torch.tensor([8.0, 4.0, 2.0, 1.0]) / 15, atol=0.02)
    assert torch.equal(drawn, drawn_distances(places, config, 3))
    assert not torch.equal(drawn, drawn_distances(places, config, 4))
    assert drawn_distances(torch.ones(500, dtype=torch.int64), config, 0).max() == 1


def test_learning_rate_rises_then_falls_to_nothing() -> None:
    scales = [lr_scale(step, 200) for step in range(201)]
    assert scales[0] == pytest.approx(0.25) and max(scales) == 1.0 and scales[-1] == pytest.approx(0.0)
    assert scales[4:] == sorted(scales[4:], reverse=True)
