"""Caches that users copy, keep and hand on: to the decoder, to the model, to transformers' generate, into a file."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, QuantizedCache, StaticCache

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.model.cache import DecodeCache
from specbound_controller.errors import InputError
from specbound_controller.policy import StaticPolicy
from tests.decoding.families import VARIANTS, random_model, random_prompt

POLICY = StaticPolicy((2,), 0.0, 4)
GREEDY = {"max_new_tokens": 12, "do_sample": False}


def made(name: str = "llama", **settings: Any) -> tuple[PreTrainedModel, SpecBoundDecoder]:
    model = random_model(name, dtype=torch.float64, **settings)
    return model, SpecBoundDecoder(model, POLICY)


def longer(text: Tensor, seed: int, count: int = 5) -> Tensor:
    return torch.cat([text, random_prompt(seed, count)], dim=1)


def test_a_prefix_is_run_once_and_every_question_continues_from_a_copy() -> None:
    model, decoder = made("qwen2-sliding")
    prefix = random_prompt(0, 30)
    kept = decoder.decode(prefix, max_new_tokens=1).past_key_values
    rows: list[int] = []
    for seed in (1, 2, 1):
        question = longer(prefix, seed)
        expected = model.generate(question, **GREEDY)
        own, inside = copy.deepcopy(kept), copy.deepcopy(kept)
        assert own.owner is kept.owner is model.model.layers
        assert own.layers[0].keys.data_ptr() != kept.layers[0].keys.data_ptr()
        handle = model.model.layers[0].register_forward_pre_hook(lambda module, args: rows.append(args[0].shape[1]))
        assert torch.equal(decoder.generate(question, past_key_values=own, **GREEDY), expected)
        handle.remove()
        assert torch.equal(
            model.generate(question, past_key_values=inside, custom_generate=decoder, **GREEDY), expected
        )
        assert kept.get_seq_length() == 30 and kept.tokens == prefix[0].tolist()
    assert rows.count(5) >= 3 and max(rows) == 5  # the prefix never runs again


def test_a_cache_in_a_file_holds_no_weights_and_continues() -> None:
    model, decoder = made()
    prefix = random_prompt(0, 30)
    file = io.BytesIO()
    torch.save(decoder.decode(prefix, max_new_tokens=1).past_key_values, file)
    assert file.getbuffer().nbytes < 2 * 4 * 300 * 16 * 8 + 20_000  # buffers of 4 layers, and names
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    question = longer(prefix, 1)
    expected = model.generate(question, **GREEDY)
    assert torch.equal(decoder.generate(question, past_key_values=copy.deepcopy(loaded), **GREEDY), expected)
    for other in (made("gemma"), made("mistral-sliding"), made(num_layers=3), made(seed=1)):
        with pytest.raises(InputError, match="another model's cache"):
            other[1].generate(question, past_key_values=copy.deepcopy(loaded), **GREEDY)
    twice = pickle.loads(pickle.dumps(loaded))
    assert torch.equal(decoder.generate(question, past_key_values=twice, **GREEDY), expected)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_returned_cache_works_in_the_model_and_in_plain_generate(name: str) -> None:
    model, decoder = made(name)
    text = decoder.generate(random_prompt(0, 20), **GREEDY)
    close = {"rtol": 1e-4, "atol": 1e-5} if name == "gemma2" else {"rtol": 1e-7, "atol": 1e-7}  # its softmax is fp32
    cache = decoder.decode(random_prompt(0, 20), **GREEDY).past_key_values
    with torch.no_grad():
        expected = model(text).logits[:, -1]
        logits = model(text[:, -1:], past_key_values=copy.deepcopy(cache)).logits[:, -1]
        torch.testing.assert_close(logits, expected, **close)
        several = longer(text, 3, 15)
        output = model(several[:, 31:], past_key_values=copy.deepcopy(cache)).logits
        torch.testing.assert_close(output, model(several).logits[:, 31:], **close)
    question = longer(text, 4)
    assert torch.equal(
        model.generate(question, past_key_values=copy.deepcopy(cache), **GREEDY), model.generate(question, **GREEDY)
    )
    model.generate(question, past_key_values=cache, **GREEDY)
    assert cache.get_seq_length() == 20 + 12 + 5 + 12 - 1
    assert torch.equal(decoder.generate(question, past_key_values=cache, **GREEDY), model.generate(question, **GREEDY))


def test_what_the_model_wrote_after_a_crop_is_not_taken_for_the_old_tokens() -> None:
    model, decoder = made("qwen2-sliding")
    first = decoder.decode(random_prompt(0, 20), **GREEDY)
    cache, text = first.past_key_values, first.sequences
    cache.crop(-10)
    others = random_prompt(9, 10)
    with torch.no_grad():
        logits = model(others, past_key_values=cache).logits
        expected = model(torch.cat([text[:, :21], others], dim=1)).logits[:, 21:]
    torch.testing.assert_close(logits, expected)
    question = longer(text, 3)  # begins with the tokens that the crop has dropped
    assert torch.equal(
        decoder.generate(question, past_key_values=cache, **GREEDY),
        SpecBoundDecoder(model).generate(question, **GREEDY),
    )


def test_a_cache_goes_through_a_forward_pass_with_gradients_and_back() -> None:
    model, decoder = made()
    first = decoder.decode(random_prompt(0, 9), **GREEDY)
    cache, text = first.past_key_values, first.sequences
    for token in text[0, -1:].tolist() * 3:
        logits = model(torch.tensor([[token]]), past_key_values=cache).logits
    logits.sum().backward()
    assert bool(model.model.embed_tokens.weight.grad.any())
    question = longer(text, 1)
    expected = model.generate(question, **GREEDY)
    assert torch.equal(decoder.generate(question, past_key_values=copy.deepcopy(cache), **GREEDY), expected)
    assert torch.equal(decoder.generate(question, past_key_values=cache, **GREEDY), expected)
    assert not cache.layers[0].keys.requires_grad


def test_rows_are_repeated_selected_and_forgotten_as_in_transformers() -> None:
    model, decoder = made()
    prompt = random_prompt(0, 9)
    first = decoder.decode(prompt, **GREEDY)
    cache, text = first.past_key_values, first.sequences
    cache.batch_repeat_interleave(3)
    rows = torch.cat([longer(text, seed) for seed in (1, 2, 3)])
    expected = model.generate(rows, attention_mask=torch.ones_like(rows), pad_token_id=0, **GREEDY)
    settings = {"attention_mask": torch.ones_like(rows), "pad_token_id": 0, **GREEDY}
    assert torch.equal(model.generate(rows, past_key_values=copy.deepcopy(cache), **settings), expected)
    with pytest.raises(InputError, match="must hold one sequence, got 3"):
        decoder.generate(rows[:1], past_key_values=cache, **GREEDY)
    cache.batch_select_indices(torch.tensor([1]))
    assert cache.batch_size == 1 and cache.tokens == []
    assert torch.equal(decoder.generate(rows[:1], past_key_values=cache, **GREEDY), expected[:1])
    cache.reset()
    assert cache.get_seq_length() == 0 and cache.tokens == []
    assert torch.equal(decoder.generate(rows[1:2], past_key_values=cache, **GREEDY), expected[1:2])


def test_a_cache_of_another_number_format_is_refused_before_any_layer_runs() -> None:
    model = random_model("llama")
    decoder = SpecBoundDecoder(model, POLICY)
    prompt = random_prompt(0, 9)
    own, theirs = decoder.decode(prompt, **GREEDY), DynamicCache(config=model.config)
    model(prompt, past_key_values=theirs)
    question, calls = longer(own.sequences, 1), []
    model.double()
    handle = model.model.layers[0].register_forward_pre_hook(lambda *_: calls.append(1))
    for cache in (own.past_key_values, theirs):
        with pytest.raises(InputError, match=r"past_key_values must be torch\.float64 .* got torch\.float32"):
            decoder.generate(question, past_key_values=cache, **GREEDY)
    assert not calls
    handle.remove()
    assert torch.equal(decoder.generate(question, **GREEDY), model.generate(question, **GREEDY))


def test_a_cache_from_an_autocast_region_goes_on_within_one() -> None:
    model = random_model("llama")
    decoder = SpecBoundDecoder(model, POLICY)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first = decoder.decode(random_prompt(0, 9), **GREEDY)
        question = longer(first.sequences, 1)
        assert decoder.generate(question, past_key_values=copy.deepcopy(first.past_key_values), **GREEDY).shape == (
            1,
            38,
        )
    with pytest.raises(InputError, match=r"got torch\.bfloat16"):
        decoder.generate(question, past_key_values=first.past_key_values, **GREEDY)


def new_caches(model: PreTrainedModel) -> list[Any]:
    return [DynamicCache(), DynamicCache(config=model.config), StaticCache(config=model.config, max_cache_len=64)]


@pytest.mark.parametrize("name", ["llama", "mistral-sliding", "qwen3-sliding", "gpt2"])
def test_a_callers_own_cache_is_filled_as_transformers_fills_it(name: str) -> None:
    model, decoder = made(name)
    prompt = random_prompt(0, 20)
    for ours, theirs, inside in zip(*(new_caches(model) for _ in range(3)), strict=True):
        expected = model.generate(prompt, past_key_values=theirs, return_dict_in_generate=True, **GREEDY)
        output = decoder.decode(prompt, past_key_values=ours, **GREEDY)
        model.generate(prompt, past_key_values=inside, custom_generate=decoder, **GREEDY)
        assert torch.equal(output.sequences, expected.sequences)
        assert output.past_key_values is ours and expected.past_key_values is theirs
        for cache in (ours, inside):
            assert cache.get_seq_length() == theirs.get_seq_length() == 31
            for mine, layer in zip(cache.layers, theirs.layers, strict=True):
                assert mine.keys.shape == layer.keys.shape
                torch.testing.assert_close((mine.keys, mine.values), (layer.keys, layer.values))
        question = longer(expected.sequences, 1)
        again = {"past_key_values": ours, **GREEDY}
        assert torch.equal(model.generate(question, **again), model.generate(question, **GREEDY))


def test_turns_go_on_in_one_dynamic_cache_as_in_transformers_documentation() -> None:
    model, decoder = made()
    cache, text = DynamicCache(config=model.config), random_prompt(0, 9)
    for turn in range(3):
        expected = model.generate(text, **GREEDY)
        assert torch.equal(decoder.generate(text, past_key_values=cache, **GREEDY), expected)
        assert cache.get_seq_length() == expected.shape[1] - 1
        text = longer(expected, turn + 1)


def test_caches_that_cannot_be_filled_are_refused_by_name_before_any_layer_runs() -> None:
    model, decoder = made()
    with pytest.raises(InputError, match="heads of width"):
        foreign = DynamicCache()
        gpt2 = random_model("gpt2", dtype=torch.float64)
        gpt2(random_prompt(0, 5), past_key_values=foreign)
        decoder.generate(random_prompt(0, 9), past_key_values=foreign, **GREEDY)
    calls: list[int] = []
    model.model.layers[0].register_forward_pre_hook(lambda *_: calls.append(1))
    prompt = random_prompt(0, 9)
    small = StaticCache(config=model.config, max_cache_len=12)
    mask = torch.tensor([[0, 0, *[1] * 7]])
    offloading = DynamicCache(config=model.config)
    offloading.offloading = True
    for cache, arguments, words in (
        (small, {}, "room for 20 tokens"),
        (offloading, {}, "which offloads"),
        (DynamicCache(config=model.config), {"attention_mask": mask}, "without padding, got 2"),
        ("cache", {}, "must be a transformers Cache, got str"),
    ):
        with pytest.raises(InputError, match=words):
            decoder.generate(prompt, past_key_values=cache, attention_mask=arguments.get("attention_mask"), **GREEDY)
    with pytest.raises(InputError, match="one sequence, got a batch of 2"):
        decoder.generate(prompt.repeat(2, 1), past_key_values=DynamicCache(config=model.config), **GREEDY)
    if QuantizedCache is not None:
        quantised = QuantizedCache.__new__(QuantizedCache)
        quantised.layers, quantised.offloading = [], False
        with pytest.raises(InputError, match="got QuantizedCache"):
            decoder.generate(prompt, past_key_values=quantised, **GREEDY)
    assert not calls


def test_without_use_cache_no_cache_is_returned() -> None:
    _, decoder = made()
    assert decoder.decode(random_prompt(0, 9), use_cache=False, **GREEDY).past_key_values is None
    assert isinstance(decoder.decode(random_prompt(0, 9), **GREEDY).past_key_values, DecodeCache)
