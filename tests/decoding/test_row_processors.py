"""Logits processors of a batch, row by row: transformers' own tokens, also where a processor holds numbers per row."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, SynthIDTextWatermarkingConfig
from transformers.generation import logits_process

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.row_processors import OF_ROW, STATELESS_PROCESSORS, are_separable
from specbound_controller.policy import StaticPolicy
from tests.decoding.families import random_model
from tests.decoding.test_batch import padded, prompts_of
from tests.generation_table import SEED, same_noise

POLICIES = [None, StaticPolicy((3,), 0.0, 5)]
FOR_OTHER_MODELS = {
    "AlternatingCodebooksLogitsProcessor",
    "BarkEosPrioritizerLogitsProcessor",
    "ClassifierFreeGuidanceLogitsProcessor",
    "DiaClassifierFreeGuidanceLogitsProcessor",
    "DiaEOSChannelFilterLogitsProcessor",
    "DiaEOSDelayPatternLogitsProcessor",
    "UnbatchedClassifierFreeGuidanceLogitsProcessor",
    "WhisperNoSpeechDetection",
    "WhisperTimeStampLogitsProcessor",
}
"""Not made by the settings that a decoder honours; a batch with one runs in step, as with a caller's own."""


def test_somebody_has_decided_about_every_processor_of_transformers() -> None:
    found = {
        kind
        for kind in vars(logits_process).values()
        if isinstance(kind, type) and issubclass(kind, LogitsProcessor) and kind is not LogitsProcessor
    }
    decided = {*STATELESS_PROCESSORS, *OF_ROW}
    assert {kind.__name__ for kind in found - decided} <= FOR_OTHER_MODELS


def allowed(row: int, ids: Tensor) -> list[int]:
    return [(int(ids[-1]) * 7 + row) % 97, (row * 31 + len(ids)) % 97, 50 + row]


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.8},
        {"repetition_penalty": 1.8, "num_return_sequences": 2, "do_sample": True, "top_k": 5},
        {"encoder_repetition_penalty": 1.8},
        {"encoder_repetition_penalty": 1.8, "num_return_sequences": 2, "do_sample": True, "top_k": 5},
        {"encoder_no_repeat_ngram_size": 1},
        {"encoder_no_repeat_ngram_size": 1, "num_return_sequences": 3, "do_sample": True, "top_k": 5},
        {"no_repeat_ngram_size": 1},
        {"prefix_allowed_tokens_fn": allowed},
        {"prefix_allowed_tokens_fn": allowed, "repetition_penalty": 1.4, "forced_eos_token_id": 9},
        {"watermarking_config": {"bias": 20.0}},
        {"watermarking_config": {"bias": 20.0, "seeding_scheme": "selfhash", "context_width": 3}},
        {"watermarking_config": SynthIDTextWatermarkingConfig(ngram_len=3, keys=[4, 5, 6, 7]), "do_sample": True},
        {
            "max_length": 41,
            "max_new_tokens": None,
            "forced_eos_token_id": 9,
            "min_length": 38,
            "eos_token_id": [3, 9, 60],
        },
        {"begin_suppress_tokens": list(range(3, 80)), "exponential_decay_length_penalty": (2, 2.0), "eos_token_id": 20},
        {"logits_processor": LogitsProcessorList([logits_process.RepetitionPenaltyLogitsProcessor(1.9, 5)])},
        {"logits_processor": LogitsProcessorList([logits_process.SequenceBiasLogitsProcessor([[[11], 9.0]])])},
    ],
    ids=lambda settings: " ".join(settings),
)
def test_a_padded_batch_under_processors_gives_transformers_tokens(settings: dict[str, Any]) -> None:
    model = random_model("llama", dtype=torch.float64)
    prompts = prompts_of()
    arguments = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, **padded(prompts), **settings}
    with same_noise([len(prompt) for prompt in prompts]):
        expected = model.generate(**arguments)
    free = model.generate(**{**padded(prompts), "max_new_tokens": 12, "do_sample": False, "pad_token_id": 0})
    assert expected.shape != free.shape or not torch.equal(expected, free)
    for policy in POLICIES:
        decoder = SpecBoundDecoder(model, policy)
        assert torch.equal(decoder.generate(**arguments, seed=SEED), expected)
        assert torch.equal(model.generate(**arguments, seed=SEED, custom_generate=decoder), expected)


def test_drafts_go_through_the_processors_of_their_row() -> None:
    model = random_model("llama", dtype=torch.float64)
    settings = {"repetition_penalty": 1.8, "suppress_tokens": list(range(40)), "max_new_tokens": 40}
    stats = SpecBoundDecoder(model, POLICIES[1]).decode(**padded(prompts_of()), **settings, pad_token_id=0).row_stats
    assert all(each.num_accepted > 0 for each in stats)


def test_what_nobody_knows_is_not_separable() -> None:
    class Own(logits_process.TemperatureLogitsWarper):
        pass

    assert are_separable([logits_process.TemperatureLogitsWarper(0.5)])
    assert not are_separable([Own(0.5)]) and not are_separable([lambda ids, scores: scores])
