"""Chances of tokens in answers: those of the model alone, in OpenAI's two forms."""

import math
from typing import Any

import pytest
import torch

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.models.loading import chat_ids
from specbound.serve.answers import of_chat, of_completion
from specbound.serve.logprobs import LEAST, Chance, ChancesOfAnswer, TokenChance
from tests.serve.running_server import Running


def test_a_token_is_told_with_the_best_ones_and_the_text_it_adds() -> None:
    texts = {1: "Hello", 2: " you", 3: " there"}
    chances = ChancesOfAnswer(lambda tokens: "".join(texts[token] for token in tokens).lstrip(), 2)
    logits = torch.full((2, 5), -torch.inf)
    logits[0, [1, 2]] = torch.tensor([0.6, 0.4]).log()
    logits[1, [2, 3]] = torch.tensor([0.1, 0.9]).log()
    first, second = chances.push([1, 2], logits)
    assert first.chosen.text == "Hello" and first.offset == 0 and second.offset == 5
    assert second.chosen == Chance(" you", pytest.approx(math.log(0.1)))
    assert second.best == (Chance(" there", pytest.approx(math.log(0.9))), second.chosen)


def test_what_the_model_rules_out_is_a_number() -> None:
    logits = torch.tensor([[0.0, -torch.inf]])
    (found,) = ChancesOfAnswer(str, 0).push([1], logits)
    assert found.chosen.logprob == LEAST and found.best == ()


def test_offsets_go_on_over_pushes_and_texts_join_to_the_answer() -> None:
    words = [f" w{index}" for index in range(40)]
    chances = ChancesOfAnswer(lambda tokens: "".join(words[token] for token in tokens).lstrip(), 0)
    found = [chances.push([token], torch.zeros(1, 40))[0] for token in range(40)]
    assert "".join(each.chosen.text for each in found) == "".join(words).lstrip()
    assert found[-1].offset == len("".join(words[:-1]).lstrip())


def test_a_character_stands_at_the_token_that_completes_it() -> None:
    data = list("a😀é".encode())
    chances = ChancesOfAnswer(lambda tokens: bytes(data[each] for each in tokens).decode(errors="replace"), 0)
    texts = [each.chosen.text for each in chances.push([*range(7)], torch.zeros(7, 7))]
    assert texts[0] == "a" and texts[4] == "😀" and texts[6] == "é"
    assert set(texts[1:4] + texts[5:6]) <= {"\ufffd", ""}


CHANCES = [TokenChance(Chance("a", -1.0), (Chance("é", -0.5), Chance("\ufffd", -2.0), Chance("\ufffd", -3.0)), 4)]


def test_a_chat_tells_bytes_where_a_token_is_whole_characters() -> None:
    content: list[dict[str, Any]] = of_chat(CHANCES)["content"]
    assert content[0]["token"] == "a" and content[0]["bytes"] == [97]
    assert [each["bytes"] for each in content[0]["top_logprobs"]] == [[0xC3, 0xA9], None, None]


def test_a_completion_tells_the_chosen_token_among_the_best() -> None:
    assert of_completion(CHANCES) == {
        "tokens": ["a"],
        "token_logprobs": [-1.0],
        "top_logprobs": [{"a": -1.0, "é": -0.5, "\ufffd": -2.0}],
        "text_offset": [4],
    }


SAMPLED = {"temperature": 1.3, "top_p": 0.8, "seed": 4}


def chances_of(
    running: Running, prompt: torch.Tensor, ask: dict[str, Any]
) -> tuple[list[str], list[float], list[float]]:
    """By one pass of the model over a finished answer: texts and log-probabilities of its tokens, and of the best."""
    arguments = {"do_sample": True, "top_k": 0, **SAMPLED} if "seed" in ask else {}
    decoder = SpecBoundDecoder(running.prepared.decoder.model)
    ids = decoder.decode(prompt, max_new_tokens=ask["max_tokens"], **arguments).sequences
    with torch.inference_mode():
        logprobs = decoder.model(ids).logits[0, prompt.shape[1] - 1 : -1].log_softmax(-1)
    tokens = ids[0, prompt.shape[1] :]
    own = logprobs.gather(1, tokens[:, None])[:, 0]
    words = [str(running.prepared.loaded.tokenizer.decode([token])) for token in tokens.tolist()]
    return words, own.tolist(), logprobs.max(-1).values.tolist()


@pytest.mark.parametrize("sampling", [{"temperature": 0}, SAMPLED])
@pytest.mark.parametrize("is_stream", [False, True])
def test_chances_are_the_models_own_for_the_text_that_it_gives_anyway(
    running: Running, sampling: dict[str, Any], is_stream: bool
) -> None:
    ask: dict[str, Any] = {"model": "tiny", "max_tokens": 24, **sampling}
    messages: Any = [{"role": "user", "content": "the cat sat"}]
    client, ids = running.client(), chat_ids(running.prepared.loaded, messages)
    bare = client.chat.completions.create(messages=messages, **ask).choices[0].message.content
    found: Any = client.chat.completions.create(
        messages=messages, logprobs=True, top_logprobs=3, stream=is_stream, **ask
    )
    choices = [choice for chunk in found for choice in chunk.choices] if is_stream else found.choices
    texts = [(choice.delta.content or "") if is_stream else choice.message.content for choice in choices]
    told = [token for choice in choices if choice.logprobs is not None for token in choice.logprobs.content]
    words, own, best = chances_of(running, ids, ask)
    assert "".join(texts) == bare and [token.token.strip() for token in told] == words
    assert [token.logprob for token in told] == pytest.approx(own, abs=1e-5)
    assert [token.top_logprobs[0].logprob for token in told] == pytest.approx(best, abs=1e-5)
    assert all(len(token.top_logprobs) == 3 for token in told)


def test_chances_of_a_completion_say_where_tokens_stand(running: Running) -> None:
    ask: dict[str, Any] = {"model": "tiny", "max_tokens": 20, "temperature": 0}
    (choice,) = running.client().completions.create(prompt="the dog", logprobs=0, **ask).choices
    ids = running.prepared.loaded.tokenizer("the dog", return_tensors="pt")["input_ids"]
    words, own, _ = chances_of(running, ids, ask)
    found = choice.logprobs
    assert found is not None and found.tokens is not None and found.text_offset is not None
    assert found.token_logprobs == pytest.approx(own, abs=1e-5) and [each.strip() for each in found.tokens] == words
    assert found.top_logprobs == [{text: own} for text, own in zip(found.tokens, found.token_logprobs, strict=True)]
    for text, offset in zip(found.tokens, found.text_offset, strict=True):
        assert choice.text[offset:].startswith(text) or text.strip().startswith("<")  # special tokens are no text
