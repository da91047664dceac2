"""More than a thousand tokens: the same output, and nothing grows but the caches and the token ids."""

import gc

import torch

from specbound.decoding.decoder import SpecBoundDecoder
from specbound_controller.policy import StaticPolicy
from specbound_controller.records import StepRecord
from tests.decoding.families import random_model, random_prompt

NUM_TOKENS = 1600


def test_many_tokens_grow_the_caches_and_nothing_else() -> None:
    model = random_model("llama", num_layers=2)
    model.config.max_position_embeddings = NUM_TOKENS + 8
    prompt = random_prompt(0, 8)
    objects: dict[int, int] = {}

    def count_objects(record: StepRecord, row: int) -> None:
        mark = record.context_length // 400
        if mark not in objects:
            gc.collect()
            objects[mark] = len(gc.get_objects())

    decoder = SpecBoundDecoder(model, StaticPolicy((1,), 0.0, 3), record_steps=False)
    output = decoder.decode(prompt, max_new_tokens=NUM_TOKENS, on_step=count_objects)
    assert abs(objects[3] - objects[1]) < 20  # Python objects, tensors among them: none per token or step
    assert output.stats.steps == []
    for layer in output.past_key_values.layers:
        assert layer.get_seq_length() == NUM_TOKENS + 7  # the last token has run no layer yet
        assert layer.capacity <= 2 * NUM_TOKENS

    expected = model.generate(prompt, max_new_tokens=NUM_TOKENS, do_sample=False)
    assert torch.equal(output.sequences, expected)
