"""Sampling and logits processors: the tokens of plain sampling with that seed, the distribution of transformers'."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.noise import gumbel_noise
from specbound.decoding.request import Request
from specbound.decoding.sequence import Sequence
from specbound.evaluation.verify import RandomPolicy
from specbound_controller.errors import InputError
from specbound_controller.policy import StaticPolicy
from tests.decoding.families import VARIANTS, random_model, random_prompt
from tests.generation_table import same_noise

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"top_k": 0},
    "cold": {"temperature": 0.6, "top_k": 0},
    "top-k": {"top_k": 7},
    "one token": {"top_k": 1},
    "top-p": {"top_p": 0.8, "top_k": 0},
    "min-p": {"min_p": 0.1, "top_k": 0},
    "typical-p": {"typical_p": 0.7, "top_k": 0},
    "epsilon and eta": {"epsilon_cutoff": 0.01, "eta_cutoff": 0.02, "top_k": 0},
    "repetition": {"repetition_penalty": 1.4, "no_repeat_ngram_size": 3, "top_k": 20},
    "bans": {"suppress_tokens": [5, 6, 7], "bad_words_ids": [[8, 9]], "sequence_bias": {(11,): 2.0}, "top_k": 0},
    "minimum": {"min_new_tokens": 20, "eos_token_id": list(range(10, 40)), "pad_token_id": 0, "top_k": 0},
}


def policies() -> list[StaticPolicy]:
    return [
        StaticPolicy((2,), 0.0, 4),
        StaticPolicy((1, 3), (0.05, 0.02), 5, combine="product"),
        RandomPolicy(4, seed=1),
    ]


@pytest.mark.parametrize("name", SETTINGS)
def test_speculative_sampling_gives_the_tokens_of_plain_sampling_with_that_seed(name: str) -> None:
    model = random_model("llama", dtype=torch.float64)
    settings = {"do_sample": True, "max_new_tokens": 28, **SETTINGS[name]}
    accepted = 0
    for seed in range(2):
        prompt = random_prompt(seed, 5 + seed)
        expected = SpecBoundDecoder(model).generate(prompt, seed=seed, **settings)
        assert not torch.equal(SpecBoundDecoder(model).generate(prompt, seed=seed + 9, **settings), expected) or (
            name == "one token"
        )
        for policy in policies():
            output = SpecBoundDecoder(model, policy).decode(prompt, seed=seed, **settings)
            assert torch.equal(output.sequences, expected)
            accepted += output.stats.num_accepted
    assert accepted > 0


@pytest.mark.parametrize("name", VARIANTS)
def test_every_family_samples_the_same_tokens(name: str) -> None:
    model = random_model(name, dtype=torch.float64)
    prompt = random_prompt(1, 9)
    settings = {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "max_new_tokens": 20, "seed": 4}
    expected = SpecBoundDecoder(model).generate(prompt, **settings)
    for policy in policies():
        assert torch.equal(SpecBoundDecoder(model, policy).generate(prompt, **settings), expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.5},
        {"no_repeat_ngram_size": 2},
        {"suppress_tokens": [3, 4, 5]},
        {"bad_words_ids": [[7], [8, 9]]},
        {"sequence_bias": {(37, 12): 9.0, (11,): 1.0}},
        {"min_new_tokens": 12, "eos_token_id": list(range(10, 40))},
        {"min_length": 15, "eos_token_id": list(range(10, 40))},
        {"exponential_decay_length_penalty": (5, 1.2), "eos_token_id": 20},
        {"forced_eos_token_id": 20, "eos_token_id": 20},
        {"renormalize_logits": True, "remove_invalid_values": True},
        {"prefix_allowed_tokens_fn": lambda batch, ids: [int(ids[-1]) // 2, 50, 60, len(ids) % 90]},
    ],
)
def test_greedy_output_under_processors_equals_transformers_generate(settings: dict) -> None:
    model = random_model("llama")
    prompt = random_prompt(2, 6)
    settings = {"max_new_tokens": 28, "do_sample": False, "pad_token_id": 0, **settings}
    expected = model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)
    free = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=28, do_sample=False)
    assert not torch.equal(expected, free) or "renormalize_logits" in settings
    for policy in (None, *policies()):
        assert torch.equal(SpecBoundDecoder(model, policy).generate(prompt, **settings), expected)
        inside = SpecBoundDecoder(model, policy)
        assert torch.equal(model.generate(prompt, custom_generate=inside, **settings), expected)


def test_the_distribution_is_that_of_transformers_sampling() -> None:
    """Two-sample chi-square on each of the first three new tokens, many seeds against one large batch."""
    model = random_model("llama")
    prompt = random_prompt(3, 6)
    settings = {"do_sample": True, "temperature": 1.3, "top_k": 8, "max_new_tokens": 3}
    torch.manual_seed(0)
    theirs = model.generate(prompt.repeat(3000, 1), **settings)[:, 6:].numpy()
    decoder = SpecBoundDecoder(model, StaticPolicy((3,), 0.0, 2))
    ours = torch.cat([decoder.generate(prompt, seed=seed, **settings) for seed in range(700)])[:, 6:].numpy()
    for index in range(3):
        counts = np.stack([np.bincount(tokens[:, index], minlength=97) for tokens in (ours, theirs)])
        rare = counts.sum(0) < 40
        table = np.column_stack([counts[:, ~rare], counts[:, rare].sum(1)])
        table = table[:, table.sum(0) > 0]
        assert table.shape[1] > 4
        assert stats.chi2_contingency(table).pvalue > 0.01


def test_without_a_seed_torchs_generator_gives_it() -> None:
    model = random_model("llama")
    decoder = SpecBoundDecoder(model, StaticPolicy((2,), 0.0, 4))
    outputs = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        outputs.append(decoder.generate(random_prompt(0, 6), do_sample=True, max_new_tokens=30))
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])


class Counting(LogitsProcessor):
    """Keeps state: how often it was called, with which prefixes; and bans what it saw most often."""

    def __init__(self) -> None:
        self.prefixes: list[tuple[int, ...]] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.prefixes.append(tuple(input_ids[0].tolist()))
        scores[:, len(self.prefixes) % scores.shape[-1]] -= 3.0  # in place, and by the number of calls
        scores[:, input_ids[0, -1]] = -torch.inf
        return scores


@pytest.mark.parametrize("exit_layer", [1, 3])
def test_a_processor_with_state_is_called_exactly_as_plain_decoding_calls_it(exit_layer: int) -> None:
    model = random_model("llama")
    prompt = random_prompt(0, 6)
    reference = Counting()
    expected = model.generate(
        prompt, do_sample=False, max_new_tokens=40, logits_processor=LogitsProcessorList([reference])
    )
    for policy in (None, StaticPolicy((exit_layer,), 0.0, 5), StaticPolicy((1, 2, 3), 0.05, 7), RandomPolicy(4, 0)):
        counting = Counting()
        decoder = SpecBoundDecoder(model, policy)
        output = decoder.generate(prompt, max_new_tokens=40, logits_processor=LogitsProcessorList([counting]))
        assert torch.equal(output, expected)
        assert counting.prefixes == reference.prefixes


def test_drafts_are_chosen_through_the_stateless_processors_and_the_shared_noise() -> None:
    model = random_model("llama")
    settings = {"max_new_tokens": 60, "suppress_tokens": list(range(40)), "repetition_penalty": 1.3}

    def acceptance(model: PreTrainedModel) -> float:
        stats = [
            SpecBoundDecoder(model, StaticPolicy((3,), 0.0, 4)).decode(random_prompt(seed, 6), **settings).stats
            for seed in range(3)
        ]
        return sum(stats[1:], stats[0]).acceptance_rate

    with_processors = acceptance(model)
    blind = pytest.MonkeyPatch()
    blind.setattr("specbound.decoding.sequence.STATELESS_PROCESSORS", ())
    without = acceptance(model)
    blind.undo()
    assert with_processors > 1.3 * without


def test_draft_signals_under_sampling_are_those_of_the_drafted_token() -> None:
    request = Request(prompt=(1, 2), max_new_tokens=9, do_sample=True, seed=11)
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    choice = Sequence(request, torch.device("cpu")).choose_draft(logits, [3, 4])
    assert choice is not None
    noised = logits[0].double() + gumbel_noise(11, 4, torch.arange(50))  # position 4: two prompt tokens, two drafts
    best = noised.topk(2)
    assert int(choice.token) == int(best.indices[0])
    assert float(choice.noised_margin) == pytest.approx(float(best.values[0] - best.values[1]))
    assert float(choice.probability) == pytest.approx(float(logits.softmax(-1)[0, best.indices[0]]))


@pytest.mark.parametrize("temperature", [1e-30, 1e-10, 1e-8, 1e-6, 1e6, 1e30])
def test_any_temperature_samples_as_transformers_does_with_the_same_noise(temperature: float) -> None:
    model = random_model("llama")
    prompt = random_prompt(7, 9)
    settings = {"do_sample": True, "temperature": temperature, "top_k": 0, "max_new_tokens": 16}
    with same_noise([9], seed=4):
        expected = model.generate(prompt, **settings)
    if temperature <= 1e-6:
        assert torch.equal(expected, model.generate(prompt, do_sample=False, max_new_tokens=16))
    for policy in (None, *policies()):
        assert torch.equal(SpecBoundDecoder(model, policy).generate(prompt, seed=4, **settings), expected)


def test_equal_scores_are_drawn_from_evenly_however_large_they_are() -> None:
    scores = torch.full((1, 12), -torch.inf)
    scores[0, [3, 5, 8]] = 2.5e38
    request = Request(prompt=(1,), max_new_tokens=900, do_sample=True, seed=1)
    sequence = Sequence(request, torch.device("cpu"))
    drawn = [sequence.commit_token(scores) for _ in range(900)]
    assert set(drawn) == {3, 5, 8}
    assert stats.chisquare([drawn.count(token) for token in (3, 5, 8)]).pvalue > 0.01


def with_head(bias: list[float]) -> PreTrainedModel:
    """A model whose head adds to the first logits."""
    model = random_model("llama")
    head = torch.nn.Linear(32, 97)
    head.weight.data.copy_(model.lm_head.weight.data)
    head.bias.data.zero_()
    head.bias.data[: len(bias)] = torch.tensor(bias)
    model.lm_head = head
    return model


INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize("bias", [[0.0, INF], [0.0, INF, INF], [NAN, 0.0], [0.0, NAN, INF], [-INF, -INF], [-INF] * 97])
@pytest.mark.parametrize("how", [{"do_sample": False}, {"do_sample": True}, {"do_sample": True, "temperature": 0.5}])
@pytest.mark.parametrize("removes", [False, True])
def test_infinite_logits_and_nan_are_what_they_are_in_transformers(bias: list[float], how: dict, removes: bool) -> None:
    model = with_head(bias)
    prompt = random_prompt(7, 9)
    settings = {"remove_invalid_values": removes, "max_new_tokens": 6, "top_k": 0, **how}
    try:
        with same_noise([9], seed=4):
            expected = model.generate(prompt, **settings)
        if how["do_sample"]:
            torch.manual_seed(0)
            model.generate(prompt, **settings)  # what torch.multinomial refuses
    except RuntimeError:
        expected = None
    for policy in (None, StaticPolicy((2,), 0.0, 4), StaticPolicy((1, 3), (0.05, 0.02), 5)):
        decoder = SpecBoundDecoder(model, policy)
        if expected is None:
            with pytest.raises(InputError, match="scores must be numbers below infinity"):
                decoder.generate(prompt, seed=4, **settings)
        else:
            assert torch.equal(decoder.generate(prompt, seed=4, **settings), expected)


def test_exits_that_give_no_numbers_cost_drafts_and_nothing_else() -> None:
    model = random_model("llama")
    expected = {
        sample: SpecBoundDecoder(model).generate(random_prompt(1, 9), max_new_tokens=16, do_sample=sample, seed=2)
        for sample in (False, True)
    }
    for layer in (1, 2):
        decoder = SpecBoundDecoder(model, StaticPolicy((1, 2, 3), (0.2, 0.1, 0.0), 4))
        read = decoder.adapter.read_exit
        calls = iter(range(10**6))
        decoder.adapter.read_exit = lambda *i, read=read, calls=calls, layer=layer: (  # type: ignore[method-assign]
            read(*i) * (NAN if next(calls) % 3 == layer else 1.0)
        )
        for sample in (False, True):
            output = decoder.generate(random_prompt(1, 9), max_new_tokens=16, do_sample=sample, seed=2)
            assert torch.equal(output, expected[sample])


def test_a_processor_that_cannot_be_copied_sees_the_whole_batch_as_in_transformers() -> None:
    class Stuck(Counting):
        def __deepcopy__(self, memo: dict) -> "Stuck":
            raise TypeError("no")

    model, ids, mask = random_model("llama"), torch.tensor([[1, 2], [0, 3]]), torch.tensor([[1, 1], [0, 1]])
    arguments = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    expected = model.generate(ids, logits_processor=LogitsProcessorList([Stuck()]), **arguments)
    decoder = SpecBoundDecoder(model)
    assert torch.equal(decoder.generate(ids, logits_processor=LogitsProcessorList([Stuck()]), **arguments), expected)
