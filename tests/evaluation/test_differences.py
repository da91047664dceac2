"""The verdict on a difference: rounding explains it, or it is a bug."""

import math
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from specbound.decoding.arguments import batch_from_arguments
from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.model.cache import PreallocatedLayer
from specbound.decoding.request import Request
from specbound.decoding.sequence import Sequence
from specbound.evaluation.differences import (
    BLOCK_ROWS,
    NOISE_FACTOR,
    Difference,
    find_difference,
    first_difference,
    passes,
)
from specbound_controller.policy import StaticPolicy
from tests.decoding.families import VARIANTS, random_model, random_prompt

PROMPT = random_prompt(3, 9)
TWIN_OF = {5: 90, 90: 5}
"""Two tokens of `twin_model` that always have the same logit."""


@pytest.fixture(scope="module")
def twin_model() -> PreTrainedModel:
    """Tokens 5 and 90 tie exactly; both are the most probable ones here and there."""
    model = random_model("llama", seed=1)
    weight = model.lm_head.weight.data
    weight[5] *= 2.0
    weight[90] = weight[5]
    return model


def request_for(model: PreTrainedModel, **arguments: object) -> Request:
    adapter = SpecBoundDecoder(model).adapter
    return batch_from_arguments(model, adapter, PROMPT, None, None, 7, {"max_new_tokens": 60, **arguments}).requests[0]


def plain(model: PreTrainedModel, **arguments: object) -> list[int]:
    output = SpecBoundDecoder(model).decode(PROMPT, max_new_tokens=60, seed=7, **arguments)
    return output.sequences[0, PROMPT.shape[1] :].tolist()


def verdict(model: PreTrainedModel, expected: list[int], actual: list[int], **arguments: object) -> Difference:
    difference = find_difference("fast", "p", model, request_for(model, **arguments), expected, actual)
    assert difference is not None
    return difference


@pytest.mark.parametrize("count", [1, 2, 5, 30])
def test_the_noise_is_no_less_than_the_resolution_of_the_number_format(count: int) -> None:
    model = random_model("gemma", dtype=torch.bfloat16)
    tokens = random_prompt(1, 30)[0].tolist()[:count]
    logits, noise = passes(model, PROMPT[0].tolist(), tokens, [])
    assert noise >= logits[0].abs().max() * 2.0**-7
    assert noise < 0.5


def test_position_of_the_first_difference() -> None:
    assert first_difference([1, 2, 3], [1, 2, 3]) is None
    assert first_difference([1, 2, 3], [1, 5, 3]) == 1
    assert first_difference([1, 2, 3], [1, 2]) == 2
    assert first_difference([], [1]) == 0


@pytest.mark.parametrize("name", VARIANTS)
def test_all_passes_are_the_model_s_own_forward_up_to_rounding(name: str) -> None:
    model = random_model(name)
    prompt, tokens = random_prompt(0, 17)[0].tolist(), random_prompt(1, 22)[0].tolist()
    logits, noise = passes(model, prompt, tokens, [4, 5, 6])
    with torch.inference_mode():
        whole = model(torch.tensor([prompt + tokens])).logits[0, -1].double()
    assert logits.shape == (1 + 2 * len(BLOCK_ROWS), whole.shape[0])
    assert (logits - whole).abs().max() < 1e-4
    assert (logits - logits[0]).abs().max() <= noise < 1e-4


def test_equal_outputs_have_no_difference(twin_model: PreTrainedModel) -> None:
    assert find_difference("fast", "p", twin_model, request_for(twin_model), [1, 2], [1, 2]) is None


def test_a_tie_is_a_near_tie_and_any_other_token_is_a_bug(twin_model: PreTrainedModel) -> None:
    expected = plain(twin_model)
    tie = next(i for i, token in enumerate(expected) if token in TWIN_OF and i > 0)
    swapped = [*expected[:tie], TWIN_OF[expected[tie]], *expected[tie + 1 :]]
    found = verdict(twin_model, expected, swapped)
    assert (found.position, found.margin, found.is_near_tie) == (tie, 0.0, True)
    assert 0 < found.noise < 1e-4
    wrong = [*expected[:tie], (expected[tie] + 1) % 90, *expected[tie + 1 :]]
    found = verdict(twin_model, expected, wrong)
    assert (found.margin, found.is_near_tie) == (0.0, False)  # the margin is small, but not to this token
    assert "new token" in found.describe() and ": bug, token" in found.describe()


def test_a_clear_difference_is_a_bug(twin_model: PreTrainedModel) -> None:
    expected = plain(twin_model)
    clear = next(i for i, token in enumerate(expected) if token not in TWIN_OF)
    found = verdict(twin_model, expected, [*expected[:clear], (expected[clear] + 1) % 97])
    assert found.margin > NOISE_FACTOR * found.noise and not found.is_near_tie


def test_an_output_that_ends_early_is_a_bug(twin_model: PreTrainedModel) -> None:
    expected = plain(twin_model)
    for first, second in ((expected, expected[:4]), (expected[:4], expected)):
        found = verdict(twin_model, first, second)
        assert found.position == 4 and not found.is_near_tie and "the end" in found.describe()


def test_at_bitwise_exactness_a_tie_is_a_bug_too(twin_model: PreTrainedModel) -> None:
    expected = plain(twin_model)
    tie = next(i for i, token in enumerate(expected) if token in TWIN_OF and i > 0)
    swapped = [*expected[:tie], TWIN_OF[expected[tie]]]
    found = find_difference("fast", "p", twin_model, request_for(twin_model), expected, swapped, "bitwise")
    assert found is not None and not found.is_near_tie


def test_the_first_new_token_comes_from_the_same_pass_and_has_no_noise(twin_model: PreTrainedModel) -> None:
    expected = plain(twin_model)
    found = verdict(twin_model, expected, [(expected[0] + 1) % 97])
    assert found.noise == 0.0 and not found.is_near_tie


def test_a_sampled_token_that_the_noise_did_not_choose_is_a_bug(twin_model: PreTrainedModel) -> None:
    settings = {"do_sample": True, "temperature": 0.9, "top_k": 20}
    expected = plain(twin_model, **settings)
    for position in (1, 30):
        wrong = [*expected[:position], (expected[position] + 1) % 97]
        found = verdict(twin_model, expected, wrong, **settings)
        assert found.margin > NOISE_FACTOR * found.noise and not found.is_near_tie


def test_a_token_at_the_edge_of_top_k_is_a_near_tie_however_large_the_margin(twin_model: PreTrainedModel) -> None:
    """Tokens 5 and 90 stand at the edge together: which of them top-k keeps is a matter of rounding."""
    prompt = PROMPT[0].tolist()
    for first in range(6, 90):
        logits = passes(twin_model, prompt, [first], [])[0][0]
        rank = int((logits > logits[5]).sum())
        if 1 <= rank <= 4:
            break
    without = logits.clone()
    without[5] -= 1.0
    base = request_for(twin_model, do_sample=True, top_k=rank + 1)
    for seed in range(2000):  # a seed whose noise wants token 5 if it may, and otherwise not token 90
        request = replace(base, seed=seed)
        kept, dropped = chosen(request, first, logits), chosen(request, first, without)
        if kept == 5 and dropped != 90:
            break
    for expected, actual in ((kept, dropped), (dropped, kept)):
        found = find_difference("fast", "p", twin_model, request, [first, expected], [first, actual])
        assert found is not None and found.is_near_tie and found.margin > NOISE_FACTOR * found.noise


def chosen(request: Request, first: int, logits: torch.Tensor) -> int:
    """What is sampled after one new token."""
    sequence = Sequence(request, logits.device)
    sequence.extend([first])
    return sequence.commit_token(logits[None])


@pytest.mark.parametrize("place", ["keys", "values"])
def test_a_corrupted_cache_row_is_a_bug_and_no_noise(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("llama")
    expected = plain(model)
    update = PreallocatedLayer.update

    def corrupt(self: PreallocatedLayer, key: torch.Tensor, value: torch.Tensor, *args: object) -> object:
        views = update(self, key, value, *args)
        if key.shape[2] == 4:  # rows that were verified together
            getattr(self, place)[0, :, self.lengths[0] - 3] += 0.5
        return views

    monkeypatch.setattr(PreallocatedLayer, "update", corrupt)
    output = SpecBoundDecoder(model, StaticPolicy((3,), 0.0, 3)).decode(PROMPT, max_new_tokens=60)
    found = verdict(model, expected, output.sequences[0, PROMPT.shape[1] :].tolist())
    assert not found.is_near_tie and found.noise < 1e-4 and math.isfinite(found.margin)
