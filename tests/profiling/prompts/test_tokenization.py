"""Prompts as ids: the chat template where there is one, conversations with the model's answers, the model's room."""

from pathlib import Path

import pytest
import torch

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.model.adapter import ModelAdapter
from specbound.models.loading import LoadedModel, load_model
from specbound_controller.errors import InputError
from specbound_profiling.prompts.files import Prompt
from specbound_profiling.prompts.tokenization import tokenize_prompts

TURN = Prompt("1/2", "mt_bench", "a dog ran", ("the cat sat",))


@pytest.fixture(scope="module")
def chat(chat_model_dir: Path) -> LoadedModel:
    return load_model(str(chat_model_dir), device="cpu")


def text(loaded: LoadedModel, prompt: Prompt, max_new_tokens: int = 8, is_raw: bool = False) -> str:
    (ids,) = tokenize_prompts([prompt], loaded, ModelAdapter(loaded.model), max_new_tokens, is_raw)
    assert ids.shape[0] == 1 and ids.dtype == torch.int64
    return str(loaded.tokenizer.decode(ids[0]))


def answer(loaded: LoadedModel, said: str, max_new_tokens: int = 8) -> str:
    ids = loaded.tokenizer(said, return_tensors="pt")["input_ids"]
    output = SpecBoundDecoder(loaded.model).generate(ids, max_new_tokens=max_new_tokens)
    return str(loaded.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))


def test_the_template_applies_unless_raw(chat: LoadedModel) -> None:
    prompt = Prompt("1", "all", "cat sat on")
    assert text(chat, prompt) == "the cat sat on . :"
    assert text(chat, prompt, is_raw=True) == "cat sat on"


def test_a_later_turn_stands_behind_the_models_own_answers(chat: LoadedModel) -> None:
    reply = answer(chat, "the the cat sat . : ")
    assert reply.strip()
    assert text(chat, TURN).split() == f"the the cat sat . that {reply} . the a dog ran . :".split()
    raw = answer(chat, "the cat sat")
    assert text(chat, TURN, is_raw=True).split() == f"the cat sat {raw} a dog ran".split()


def test_the_model_answers_once_for_all_later_turns(chat: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    decode = SpecBoundDecoder.decode
    monkeypatch.setattr(SpecBoundDecoder, "decode", lambda self, *a, **k: calls.append(1) or decode(self, *a, **k))
    third = Prompt("1/3", "mt_bench", "one", ("the cat sat", "a dog ran"))
    tokenize_prompts([TURN, third, TURN], chat, ModelAdapter(chat.model), 8)
    assert len(calls) == 2  # one for each earlier turn


def test_long_prompts_keep_their_end_and_say_so(chat: LoadedModel, caplog: pytest.LogCaptureFixture) -> None:
    long = Prompt("1", "all", "the cat " * 400)
    (ids,) = tokenize_prompts([long], chat, ModelAdapter(chat.model), 8)
    assert ids.shape == (1, 512 - 8) and chat.tokenizer.decode(ids[0, -1:]) == ":"
    assert "1 prompts are longer than 504 tokens" in caplog.text
    with pytest.raises(InputError, match="max_new_tokens must be < 512"):
        tokenize_prompts([long], chat, ModelAdapter(chat.model), 512)
