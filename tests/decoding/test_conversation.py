"""Continuing from a cache: equal to a fresh run on the whole text, without running the history again."""

import copy

import pytest
import torch
from transformers import DynamicCache, PreTrainedModel

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.evaluation.verify import RandomPolicy
from specbound_controller.errors import InputError
from specbound_controller.policy import StaticPolicy
from tests.decoding.families import VARIANTS, random_model, random_prompt

NEW_TOKENS = 10


def turns(decoder: SpecBoundDecoder, num_turns: int = 3, **settings: object) -> list[torch.Tensor]:
    """A conversation: after each output the user adds a few tokens."""
    text, cache, texts = random_prompt(0, 9), None, []
    for turn in range(num_turns):
        output = decoder.decode(text, max_new_tokens=NEW_TOKENS, past_key_values=cache, **settings)
        texts.append(output.sequences)
        cache = output.past_key_values
        text = torch.cat([output.sequences, random_prompt(turn + 1, 5)], dim=1)
    return texts


def fresh(model: PreTrainedModel, texts: list[torch.Tensor], **settings: object) -> list[torch.Tensor]:
    decoder = SpecBoundDecoder(model)
    return [decoder.generate(text[:, :-NEW_TOKENS], max_new_tokens=NEW_TOKENS, **settings) for text in texts]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_conversation_equals_fresh_runs_on_the_whole_text(name: str) -> None:
    model = random_model(name, dtype=torch.float64)
    for policy in (None, StaticPolicy((2,), 0.0, 4), RandomPolicy(4, 3)):
        texts = turns(SpecBoundDecoder(model, policy))
        assert all(map(torch.equal, texts, fresh(model, texts)))


def test_sampled_turns_equal_a_sampled_fresh_run() -> None:
    model = random_model("llama", dtype=torch.float64)
    settings = {"do_sample": True, "seed": 5, "temperature": 0.9, "repetition_penalty": 1.2}
    texts = turns(SpecBoundDecoder(model, StaticPolicy((2,), 0.0, 4)), **settings)
    assert all(map(torch.equal, texts, fresh(model, texts, **settings)))


def test_the_history_is_not_run_again() -> None:
    model = random_model("llama")
    rows: list[int] = []
    decoder = SpecBoundDecoder(model, StaticPolicy((2,), 0.0, 4))
    first = decoder.decode(random_prompt(0, 60), max_new_tokens=20)
    handle = model.model.layers[0].register_forward_pre_hook(lambda module, args: rows.append(args[0].shape[1]))
    text = torch.cat([first.sequences, random_prompt(1, 3)], dim=1)
    decoder.decode(text, max_new_tokens=5, past_key_values=first.past_key_values)
    handle.remove()
    assert rows[0] == 4  # the three new tokens, and the last output token, which no layer has seen yet


@pytest.mark.parametrize("common", [0, 1, 11, 28, 29])
def test_a_cache_is_rolled_back_to_where_the_texts_part(common: int) -> None:
    """A chat template may write the history a little differently than it was generated."""
    model = random_model("qwen2-sliding", dtype=torch.float64)
    decoder = SpecBoundDecoder(model, StaticPolicy((2,), 0.0, 4))
    first = decoder.decode(random_prompt(0, 10), max_new_tokens=20)
    text = torch.cat([first.sequences[:, :common], random_prompt(7, 12)], dim=1)
    expected = SpecBoundDecoder(model).generate(text, max_new_tokens=20)
    output = decoder.decode(text, max_new_tokens=20, past_key_values=first.past_key_values)
    assert torch.equal(output.sequences, expected)
    again = decoder.decode(text, max_new_tokens=20, past_key_values=output.past_key_values)  # the same text once more
    assert torch.equal(again.sequences, expected)


def test_an_interrupted_turn_leaves_the_cache_usable() -> None:
    model = random_model("llama", dtype=torch.float64)
    decoder = SpecBoundDecoder(model, StaticPolicy((2,), 0.0, 4))
    first = decoder.decode(random_prompt(0, 10), max_new_tokens=20)
    text = torch.cat([first.sequences, random_prompt(1, 4)], dim=1)
    expected = SpecBoundDecoder(model).generate(text, max_new_tokens=20)
    for call in range(0, 24, 5):
        calls = iter(range(1000))

        def interrupt(*args: object, at: int = call, calls: object = calls) -> None:
            if next(calls) == at:  # type: ignore[call-overload]
                raise KeyboardInterrupt

        handle = model.model.layers[1].register_forward_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            decoder.decode(text, max_new_tokens=20, past_key_values=first.past_key_values)
        handle.remove()
        output = decoder.decode(text, max_new_tokens=20, past_key_values=first.past_key_values)
        assert torch.equal(output.sequences, expected)


def test_transformers_own_cache_is_continued_and_holds_what_transformers_would_leave_in_it() -> None:
    model = random_model("llama", dtype=torch.float64)
    text = random_prompt(0, 24)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(text[:, :15], past_key_values=cache)
    expected = model.generate(text, max_new_tokens=20, do_sample=False)
    decoder = SpecBoundDecoder(model, StaticPolicy((2,), 0.0, 4))
    again, theirs = copy.deepcopy(cache), copy.deepcopy(cache)
    assert torch.equal(decoder.generate(text, max_new_tokens=20, past_key_values=cache), expected)
    model.generate(text, max_new_tokens=20, do_sample=False, past_key_values=theirs)
    assert cache.get_seq_length() == theirs.get_seq_length() == 43
    assert torch.equal(
        model.generate(text, max_new_tokens=20, do_sample=False, past_key_values=again, custom_generate=decoder),
        expected,
    )


def test_inside_transformers_generate_a_conversation_goes_on_too() -> None:
    model = random_model("llama", dtype=torch.float64)
    decoder = SpecBoundDecoder(model, StaticPolicy((2,), 0.0, 4))
    settings = {"max_new_tokens": 15, "do_sample": False, "return_dict_in_generate": True, "custom_generate": decoder}
    first = model.generate(random_prompt(0, 8), **settings)
    text = torch.cat([first.sequences, random_prompt(1, 3)], dim=1)
    second = model.generate(text, past_key_values=first.past_key_values, **settings)
    assert torch.equal(second.sequences, model.generate(text, max_new_tokens=15, do_sample=False))


def test_caches_that_cannot_be_continued_from_are_refused_by_name() -> None:
    model = random_model("mistral-sliding")
    text = random_prompt(0, 40)
    decoder = SpecBoundDecoder(model)
    windowed = DynamicCache(config=model.config)
    model(text[:, :30], past_key_values=windowed)
    with pytest.raises(InputError, match="must hold all 30 tokens"):
        decoder.generate(text, max_new_tokens=5, past_key_values=windowed)
    foreign = SpecBoundDecoder(random_model("llama", seed=1)).decode(text, max_new_tokens=5).past_key_values
    with pytest.raises(InputError, match="another model's cache"):
        decoder.generate(text, max_new_tokens=5, past_key_values=foreign)
    own = decoder.decode(text, max_new_tokens=5).past_key_values
    with pytest.raises(InputError, match="past_key_values must belong to one sequence, got a batch of 2"):
        decoder.generate(text.repeat(2, 1), max_new_tokens=5, past_key_values=own)
