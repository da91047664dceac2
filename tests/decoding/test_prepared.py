"""Inside `model.generate`: what transformers has prepared is honoured or refused by name."""

import pytest
import torch
from transformers import DynamicCache, StaticCache

from specbound.decoding.decoder import SpecBoundDecoder
from specbound_controller.errors import InputError
from tests.decoding.families import random_model, random_prompt


def test_inside_transformers_what_cannot_be_honoured_is_refused_by_name() -> None:
    model = random_model("llama")
    prompt = random_prompt(0, 4)
    decoder = SpecBoundDecoder(model)
    with pytest.raises(InputError, match="num_beams"):
        model.generate(prompt, num_beams=2, max_new_tokens=4, custom_generate=decoder)
    with pytest.raises(InputError, match="another model"):
        random_model("llama", seed=1).generate(prompt, max_new_tokens=4, custom_generate=decoder)


def test_an_empty_cache_of_any_kind_is_taken_and_a_full_one_of_a_foreign_kind_refused() -> None:
    model = random_model("llama")
    prompt = random_prompt(0, 4)
    decoder = SpecBoundDecoder(model)
    static = StaticCache(config=model.config, max_cache_len=32)
    expected = model.generate(prompt, max_new_tokens=4, do_sample=False)
    assert torch.equal(
        model.generate(prompt, max_new_tokens=4, past_key_values=static, custom_generate=decoder), expected
    )
    model(prompt[:, :3], past_key_values=static)
    with pytest.raises(InputError, match="StaticCache"):
        model.generate(prompt, max_new_tokens=4, past_key_values=static, custom_generate=decoder)
    for held in (4, 7):
        full = DynamicCache(config=model.config)
        model(random_prompt(0, held), past_key_values=full)
        with pytest.raises(InputError, match="fewer than the 4 tokens"):
            decoder.generate(prompt, max_new_tokens=4, past_key_values=full)
