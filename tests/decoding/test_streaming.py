"""Streams, callbacks and returned dictionaries: what transformers' generate gives, in order, once, ended."""

import asyncio
import threading
from collections.abc import Iterator

import pytest
import torch
from transformers import AsyncTextIteratorStreamer, TextIteratorStreamer, TextStreamer
from transformers.generation.utils import GenerateDecoderOnlyOutput

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.models.loading import LoadedModel, load_model
from specbound_controller.errors import InputError
from specbound_controller.policy import StaticPolicy
from specbound_controller.records import StepRecord
from tests.decoding.families import random_model, random_prompt
from tests.decoding.test_decoder import Collector

POLICY = StaticPolicy((4,), 0.0, 5)


@pytest.fixture(scope="module")
def demo() -> LoadedModel:
    return load_model("demo")


def text_of(demo: LoadedModel, **settings: object) -> str:
    inputs = demo.tokenizer("The old man", return_tensors="pt")
    ids = SpecBoundDecoder(demo.model).generate(**inputs, max_new_tokens=40, **settings)
    return demo.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def test_a_text_streamer_prints_what_is_returned(demo: LoadedModel, capsys: pytest.CaptureFixture[str]) -> None:
    expected = text_of(demo)
    streamer = TextStreamer(demo.tokenizer, skip_prompt=True, skip_special_tokens=True)
    inputs = demo.tokenizer("The old man", return_tensors="pt")
    SpecBoundDecoder(demo.model, POLICY).generate(**inputs, max_new_tokens=40, streamer=streamer)
    assert capsys.readouterr().out.strip() == expected.strip()


def test_an_iterator_streamer_yields_the_text_to_another_thread(demo: LoadedModel) -> None:
    streamer = TextIteratorStreamer(demo.tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=60)
    inputs = demo.tokenizer("The old man", return_tensors="pt")
    decoder = SpecBoundDecoder(demo.model, POLICY)
    arguments = {**inputs, "max_new_tokens": 40, "streamer": streamer, "do_sample": True, "seed": 1}
    thread = threading.Thread(target=decoder.generate, kwargs=arguments)
    thread.start()
    text = "".join(streamer)
    thread.join()
    assert text == text_of(demo, do_sample=True, seed=1)


def test_an_async_streamer_yields_the_text(demo: LoadedModel) -> None:
    async def collect() -> str:
        streamer = AsyncTextIteratorStreamer(demo.tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=60)
        inputs = demo.tokenizer("The old man", return_tensors="pt")
        decoder = SpecBoundDecoder(demo.model, POLICY)
        arguments = {**inputs, "max_new_tokens": 40, "streamer": streamer}
        thread = threading.Thread(target=decoder.generate, kwargs=arguments)
        thread.start()
        return "".join([piece async for piece in streamer])

    assert asyncio.run(collect()) == text_of(demo)


def test_a_stream_ends_also_when_decoding_fails() -> None:
    model = random_model("llama")
    calls = iter(range(100))

    def fail(*args: object) -> None:
        if next(calls) == 9:
            raise RuntimeError("on purpose")

    handle = model.model.layers[1].register_forward_hook(fail)
    streamer = Collector()
    with pytest.raises(RuntimeError, match="on purpose"):
        SpecBoundDecoder(model, StaticPolicy((2,), 0.0, 4)).generate(
            random_prompt(0, 6), max_new_tokens=40, streamer=streamer
        )
    handle.remove()
    assert streamer.num_ends == 1
    expected = model.generate(random_prompt(0, 6), max_new_tokens=40, do_sample=False)[0].tolist()
    streamed = [token for value in streamer.values for token in value]
    assert len(streamed) > 6 and streamed == expected[: len(streamed)]


def test_a_streamer_of_a_batch_is_refused() -> None:
    with pytest.raises(InputError, match="streamer must belong to one sequence, got a batch of 2"):
        SpecBoundDecoder(random_model("llama")).generate([[1], [2]], max_new_tokens=3, streamer=Collector())


def test_a_callback_gets_the_record_and_the_row_of_every_step() -> None:
    seen: list[tuple[StepRecord, int]] = []
    decoder = SpecBoundDecoder(random_model("llama"), StaticPolicy((2,), 0.0, 4))
    output = decoder.decode(random_prompt(0, 6), max_new_tokens=30, on_step=lambda *arguments: seen.append(arguments))
    assert [record for record, _ in seen] == output.stats.steps
    assert {row for _, row in seen} == {0}


def settings_of_dictionaries() -> Iterator[dict]:
    yield {"output_scores": True, "repetition_penalty": 1.3}
    yield {"output_scores": True, "output_logits": True, "min_new_tokens": 5, "eos_token_id": list(range(30, 40))}
    yield {"output_logits": True}
    yield {}


@pytest.mark.parametrize("settings", settings_of_dictionaries())
def test_a_returned_dictionary_holds_the_scores_and_logits_of_plain_decoding(settings: dict) -> None:
    model = random_model("llama")
    prompt = random_prompt(1, 6)
    settings = {
        "max_new_tokens": 25,
        "return_dict_in_generate": True,
        "do_sample": False,
        "pad_token_id": 0,
        **settings,
    }
    expected = model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)
    for policy in (None, StaticPolicy((3,), 0.0, 5)):
        decoder = SpecBoundDecoder(model, policy)
        for output in (
            decoder.generate(prompt, **settings),
            model.generate(prompt, custom_generate=decoder, **settings),
        ):
            assert isinstance(output, GenerateDecoderOnlyOutput)
            assert torch.equal(output.sequences, expected.sequences)
            for name in ("scores", "logits"):
                ours, theirs = getattr(output, name), getattr(expected, name)
                assert (ours is None) == (theirs is None)
                if ours is not None:
                    assert len(ours) == len(theirs) == output.sequences.shape[1] - 6
                    torch.testing.assert_close(torch.stack(ours), torch.stack(theirs), rtol=0, atol=2e-4)


def test_without_a_dictionary_token_ids_are_returned() -> None:
    prompt = random_prompt(1, 6)
    output = SpecBoundDecoder(random_model("llama")).generate(prompt, max_new_tokens=5)
    assert isinstance(output, torch.Tensor) and output.shape == (1, 11)
