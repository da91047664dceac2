"""Text from tokens: all pieces are the text of all tokens, cut before the first stop text."""

import random

import pytest

from specbound.assets import demo_model_dir
from specbound.serve.text_stream import TextStream


def letters(tokens: list[int]) -> str:
    return "".join(map(chr, tokens))


def run(text: str, *stops: str) -> tuple[list[str], TextStream]:
    stream = TextStream(letters, stops)
    pieces = []
    for each in text:
        pieces.append(stream.push(ord(each)))
        if stream.is_stopped:
            break
    return [*pieces, stream.finish()], stream


def test_pieces_come_at_once_without_stops() -> None:
    assert run("abc")[0] == ["a", "b", "c", ""]


def test_text_that_may_be_a_stop_waits_until_it_is_none() -> None:
    assert run("ab#c", "##")[0] == ["a", "b", "", "#c", ""]


def test_the_text_ends_before_the_first_stop_and_counts_the_tokens_up_to_it() -> None:
    pieces, stream = run("ab##cd", "##", "cd")
    assert "".join(pieces) == "ab" and stream.is_stopped and stream.num_tokens == 4


def test_an_unfinished_stop_is_text() -> None:
    assert "".join(run("ab#", "##")[0]) == "ab#"


@pytest.mark.parametrize("seed", range(200))
def test_random_texts_end_where_the_first_stop_is_complete(seed: int) -> None:
    generator = random.Random(seed)
    text = "".join(generator.choice("ab") for _ in range(30))
    stops = ["".join(generator.choice("ab") for _ in range(generator.randrange(1, 6))) for _ in range(2)]
    found = [end for end in range(len(text) + 1) if any(text[:end].endswith(stop) for stop in stops)]
    expected = text
    if found:
        head = text[: found[0]]
        expected = head[: min(head.find(stop) for stop in stops if stop in head)]
    pieces, stream = run(text, *stops)
    assert "".join(pieces) == expected and stream.is_stopped == bool(found)


def test_characters_of_several_tokens_come_whole() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(demo_model_dir())

    def decode(tokens: list[int]) -> str:
        return str(tokenizer.decode(tokens, skip_special_tokens=True))

    for text in ("def f(x):\n    return 'äöü € 你好'", " lead and trail ", "😀😀 x", "naïve – “quoted”"):
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        stream = TextStream(decode)
        pieces = [stream.push(token) for token in tokens]
        assert not any("\ufffd" in piece for piece in pieces)
        assert "".join([*pieces, stream.finish()]) == decode(tokens)
    half = tokenizer("€", add_special_tokens=False)["input_ids"][:1]
    stream = TextStream(decode)
    assert stream.push(half[0]) + stream.finish() == decode(half)
