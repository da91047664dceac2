"""Chances of tokens in answers: those of the model alone, in OpenAI's two forms."""

import math
from typing import Any

import pytest
import torch

from specbound.serve.answers import of_chat, of_completion
from specbound.serve.logprobs import LEAST, Chance, ChancesOfAnswer, TokenChance


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
