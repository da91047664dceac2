"""When the output ends: as transformers' generate ends it, also inside an accepted draft, and never a call later."""

from typing import Any

import pytest
import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.evaluation.verify import RandomPolicy
from specbound.models.loading import load_model
from specbound_controller.errors import InputError
from specbound_controller.policy import StaticPolicy
from tests.decoding.families import random_model, random_prompt


@pytest.fixture(scope="module")
def demo() -> tuple[torch.nn.Module, PreTrainedTokenizerBase]:
    loaded = load_model("demo")
    return loaded.model, loaded.tokenizer


def policies() -> list[StaticPolicy | None]:
    return [None, StaticPolicy((3,), 0.0, 6), StaticPolicy((1, 2), (0.1, 0.02), 5), RandomPolicy(4, 2)]


def assert_equal_to_transformers(seeds: range = range(2), **settings: Any) -> None:
    """For several prompts and policies, through our own entry point and through transformers'."""
    model = random_model("llama")
    settings = {"pad_token_id": 0, "do_sample": False, **settings}
    for seed in seeds:
        prompt = random_prompt(seed, 6)
        expected = model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)
        for policy in policies():
            decoder = SpecBoundDecoder(model, policy)
            assert torch.equal(decoder.generate(prompt, **settings), expected), (seed, settings)
            assert torch.equal(model.generate(prompt, custom_generate=decoder, **settings), expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_length": 31},
        {"max_length": 100, "max_new_tokens": 12},
        {},
        {"max_new_tokens": 40, "eos_token_id": list(range(10, 22))},
        {"max_new_tokens": 40, "eos_token_id": list(range(10, 22)), "min_new_tokens": 25},
        {"max_new_tokens": 60, "max_time": 0.0},
        {"generation_config": GenerationConfig(max_new_tokens=17, eos_token_id=[33, 34])},
    ],
)
def test_lengths_ends_and_time_limits(settings: dict) -> None:
    assert_equal_to_transformers(**settings)


class Recorder(StoppingCriteria):
    """Stops at a token of its choice; remembers every call."""

    def __init__(self, tokens: set[int]) -> None:
        self.tokens = tokens
        self.calls: list[tuple[int, ...]] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self.calls.append(tuple(input_ids[0].tolist()))
        return torch.tensor([int(input_ids[0, -1]) in self.tokens])


@pytest.mark.parametrize("tokens", [set(), set(range(20, 26)), set(range(97))])
def test_a_custom_criterion_is_called_once_per_token_and_never_past_the_stop(tokens: set[int]) -> None:
    model = random_model("llama")
    for seed in range(2):
        prompt = random_prompt(seed, 6)
        reference = Recorder(tokens)
        expected = model.generate(
            prompt, do_sample=False, max_new_tokens=50, stopping_criteria=StoppingCriteriaList([reference])
        )
        for policy in policies():
            recorder = Recorder(tokens)
            decoder = SpecBoundDecoder(model, policy)
            output = decoder.generate(prompt, max_new_tokens=50, stopping_criteria=StoppingCriteriaList([recorder]))
            assert torch.equal(output, expected)
            assert recorder.calls == reference.calls


@pytest.mark.parametrize("sampling", [{}, {"do_sample": True, "seed": 3, "temperature": 0.8}])
def test_stop_strings_inside_an_accepted_draft(
    demo: tuple[torch.nn.Module, PreTrainedTokenizerBase], sampling: dict
) -> None:
    model, tokenizer = demo
    inputs = tokenizer("Once upon a time there was a", return_tensors="pt")
    free = SpecBoundDecoder(model).generate(**inputs, max_new_tokens=60, **sampling)
    text = tokenizer.decode(free[0, inputs["input_ids"].shape[1] :])
    inside = 0
    for strings in ([text[20:26]], [text[61:66], text[90:98]], ["no such words"]):
        settings = {"max_new_tokens": 60, "stop_strings": strings, "tokenizer": tokenizer, **sampling}
        expected = SpecBoundDecoder(model).generate(**inputs, **settings)
        if not sampling:
            assert torch.equal(model.generate(**inputs, **settings, do_sample=False), expected)
        for policy in (StaticPolicy((4,), 0.0, 6), StaticPolicy((2, 4), (0.5, 0.3), 6)):
            output = SpecBoundDecoder(model, policy).decode(**inputs, **settings)
            assert torch.equal(output.sequences, expected)
            inside += bool(output.stats.steps) and output.stats.steps[-1].num_accepted > 0
        configured = GenerationConfig(max_new_tokens=60, stop_strings=strings)
        arguments = {"generation_config": configured, "tokenizer": tokenizer, **sampling}
        assert torch.equal(SpecBoundDecoder(model, policy).generate(**inputs, **arguments), expected)
        assert configured.stop_strings == strings
    assert inside > 0


def test_stop_strings_without_a_tokenizer_are_refused() -> None:
    decoder = SpecBoundDecoder(random_model("llama"))
    with pytest.raises(InputError, match="tokenizer must be given where stop_strings are set"):
        decoder.generate(random_prompt(0, 5), max_new_tokens=5, stop_strings="x")


def test_the_models_maximum_length_is_checked_before_any_work() -> None:
    model = random_model("llama")  # 512 positions
    decoder = SpecBoundDecoder(model, StaticPolicy((2,), 0.0, 4))
    calls = []
    handle = model.model.layers[0].register_forward_hook(lambda *args: calls.append(1))
    with pytest.raises(InputError, match=r"<= 512 tokens for LlamaForCausalLM, got 500 \+ 13"):
        decoder.generate(random_prompt(0, 500), max_new_tokens=13)
    assert not calls
    handle.remove()
    prompt = random_prompt(0, 500)
    expected = model.generate(prompt, max_new_tokens=12, do_sample=False)
    assert torch.equal(decoder.generate(prompt, max_new_tokens=12), expected)  # up to the last position
