"""Noise where it is wanted: the two best tokens of a position, whatever the scores, computed once."""

import math

import pytest
import torch
from transformers import LogitsProcessorList
from transformers.generation.logits_process import (
    NoRepeatNGramLogitsProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from specbound.decoding import position_noise as module
from specbound.decoding.noise import gumbel_noise
from specbound.decoding.position_noise import PositionNoise, host_noise
from specbound.decoding.request import Request
from specbound.decoding.sequence import Sequence
from tests.decoding.simulated_device import OnDevice, SimulatedDevice, to_device

VOCAB = 4999


def scores_of(kind: str, seed: int) -> torch.Tensor:
    normal = torch.randn(VOCAB, generator=torch.Generator().manual_seed(seed))
    return {
        "flat": normal * 0.01,
        "model's": normal * 4,
        "wide": normal * 30,
        "peaked": normal.index_fill(0, torch.tensor([7]), 200.0),
        "equal": torch.zeros(VOCAB),
        "huge": normal * 1e30,
        "half banned": normal.masked_fill(torch.arange(VOCAB) % 2 == 0, -torch.inf),
        "one left": torch.full((VOCAB,), -torch.inf).index_fill(0, torch.tensor([3]), 1.0),
        "16 bits": (normal * 4).bfloat16().float(),
    }[kind]


KINDS = ["flat", "model's", "wide", "peaked", "equal", "huge", "half banned", "one left", "16 bits"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_two_best_are_those_of_noise_on_every_token(kind: str) -> None:
    for seed in range(40):
        row = scores_of(kind, seed)
        whole = (row.double() - row.amax().double()) + gumbel_noise(seed, 11, torch.arange(VOCAB))
        noised, token_ids = PositionNoise(seed).noised(row, 11)
        values, places = whole.topk(2)
        assert int(token_ids[noised.argmax()]) == int(whole.argmax())
        if len(token_ids) > 1 and bool(values[1] > values[0] - 42):
            assert torch.equal(noised.topk(2).values, values)
            assert token_ids[noised.topk(2).indices].tolist() == places.tolist()


def test_noise_is_computed_of_a_few_tokens_and_the_bits_of_a_position_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, positions = [], []
    noise_of, counters_of = module.host_noise, module._counters
    monkeypatch.setattr(module, "host_noise", lambda *a: (counts.append(len(a[2])), noise_of(*a))[1])
    monkeypatch.setattr(module, "_counters", lambda *a: (positions.append(at), counters_of(*a))[1])
    noise, row = PositionNoise(1), scores_of("model's", 0)
    for at in (4, 5, 4, 5, 5):
        noise.noised(row + 0.1, at)
    assert positions == [4, 5] and max(counts) < VOCAB / 20
    noise.forget(5)
    noise.noised(row, 5)
    assert positions == [4, 5, 5]


def test_the_hosts_noise_is_that_of_tensors_to_the_bit() -> None:
    tokens = torch.arange(VOCAB)
    for seed, position in ((0, 0), (-3, 5), (2**63 - 1, 2**20)):
        assert torch.equal(
            torch.from_numpy(host_noise(seed, position, tokens.numpy())), gumbel_noise(seed, position, tokens)
        )


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_scores_that_are_no_numbers_stay_none(value: float) -> None:
    row = scores_of("model's", 0).index_fill(0, torch.tensor([5]), value)
    noised, _ = PositionNoise(0).noised(row, 3)
    assert not math.isfinite(float(noised[noised.argmax()]))


WARPERS = {
    "any rows": [TemperatureLogitsWarper(0.7)],
    "by rows": [NoRepeatNGramLogitsProcessor(2), TopPLogitsWarper(0.9)],
}


@pytest.mark.parametrize("do_sample", [True, False])
@pytest.mark.parametrize("name", WARPERS)
def test_on_a_device_all_rows_are_read_in_one_transfer(name: str, do_sample: bool) -> None:
    """Drafts that are all right: every row counts, with its own prefix, its own noise."""
    logits = torch.randn(5, 61, generator=torch.Generator().manual_seed(2)) * 3
    request = Request((1, 2, 3), 30, processors=LogitsProcessorList(WARPERS[name]), do_sample=do_sample, seed=3)
    plain = Sequence(request, torch.device("cpu"))
    expected = [plain.commit_token(row) for row in logits.split(1)]
    with torch.inference_mode(), SimulatedDevice():
        on_device = to_device(logits)
        sequence = Sequence(request, on_device.device)
        OnDevice.crossings.clear()
        found = []
        for token in sequence._verified(on_device, expected[:-1]):
            sequence._append(token)
            found.append(token)
    assert found == expected
    if name == "any rows":  # top-p and n-grams wait for the device by themselves
        assert OnDevice.crossings["read"] == 1
