"""Arguments: what transformers' generate accepts is honoured or refused by name."""

import pytest
import torch
from transformers import GenerationConfig

from specbound.decoding.arguments import batch_from_arguments
from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.model.adapter import ModelAdapter
from tests.decoding.families import random_model


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_beams": 4}, "num_beams must be 1"),
        ({"assistant_model": random_model("llama", num_layers=2)}, "assistant_model"),
        ({"prompt_lookup_num_tokens": 3}, "prompt_lookup_num_tokens"),
        ({"assistant_early_exit": 2}, "assistant_early_exit"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "penalty_alpha"),
        ({"guidance_scale": 1.5}, "guidance_scale"),
        ({"output_attentions": True, "return_dict_in_generate": True}, "output_attentions"),
        ({"output_hidden_states": True, "return_dict_in_generate": True}, "output_hidden_states"),
        ({"negative_prompt_ids": torch.ones(1, 4, dtype=torch.long)}, "negative_prompt_ids"),
        ({"generation_config": GenerationConfig(stop_strings=["x"])}, "tokenizer must be given"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 600}, "<= 512 tokens"),
        ({"input_ids": torch.ones(1, 0, dtype=torch.long)}, "at least one token"),
        ({"input_ids": []}, "at least one token"),
        ({"input_ids": [[1, 2], []]}, "at least one token"),
        ({"attention_mask": torch.tensor([[1, 0, 1, 1]])}, "left padding"),
        ({"attention_mask": torch.tensor([[1, 1, 1, 0]])}, "left padding"),
        ({"position_ids": torch.tensor([[3, 4, 5, 6]])}, "position_ids"),
        ({"do_sample": True, "seed": [1, 2]}, "seed must be one number or 1"),
        ({"nonsense": 3}, "nonsense"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(arguments: dict, words: str) -> None:
    decoder = SpecBoundDecoder(random_model("llama"))
    arguments = {"input_ids": torch.ones(1, 4, dtype=torch.long), "max_new_tokens": 8} | arguments
    with pytest.raises(ValueError, match=words):
        decoder.generate(**arguments)


@pytest.mark.parametrize(
    ("arguments", "temperature"),
    [
        ({"do_sample": True, "temperature": 0.7, "top_p": 0.9}, 0.7),
        ({"do_sample": True, "top_k": 5}, 1.0),
        ({"do_sample": False, "repetition_penalty": 1.1}, 0.0),
    ],
)
def test_sampling_temperature_is_that_of_the_call(arguments: dict, temperature: float) -> None:
    model = random_model("llama")
    arguments = {"max_new_tokens": 4, **arguments}
    (request,) = batch_from_arguments(model, ModelAdapter(model), [[1, 2]], None, None, 0, arguments).requests
    assert request.sampling_temperature == temperature
