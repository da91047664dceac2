"""The context lookup: what it finds, by hand and against a search through the whole context."""

import math
import random

import numpy as np
import pytest

from specbound_controller.actions import Action, action_grid
from specbound_controller.lookup import (
    MAX_CANDIDATES,
    MAX_MATCH,
    NO_TOKEN,
    NOTHING,
    ContextLookup,
    lookup_confidence,
    lookup_length,
)
from specbound_controller.policy import AnnealedConfidence
from specbound_controller.records import Decision


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([], (NO_TOKEN, 0)),
        ([5], (NO_TOKEN, 0)),
        ([5, 6, 7], (NO_TOKEN, 0)),
        ([5, 5], (5, 1)),
        ([5, 6, 7, 5], (6, 1)),
        ([5, 6, 7, 5, 6], (7, 2)),
        ([1, 5, 6, 7, 2, 5, 6, 8, 1, 5, 6], (7, 3)),  # the longer match is the older one
        ([5, 6, 7, 5, 6, 8, 5, 6], (8, 2)),  # of equals the latest
        ([1, 2, 3, 4, 5, 6, 7, 8, 9] * 2, (1, MAX_MATCH)),
    ],
)
def test_what_followed_the_longest_match_is_found(tokens: list[int], expected: tuple[int, int]) -> None:
    assert ContextLookup().find(tokens)[:2] == expected


def searched(tokens: list[int]) -> tuple[int, int]:
    """The same by its definition."""
    count = len(tokens)
    places = [i for i in range(2, count) if tokens[i - 2 : i] == tokens[-2:]]
    best = (NO_TOKEN, 0)
    for place in places[::-1][:MAX_CANDIDATES]:
        length = max(n for n in range(MAX_MATCH + 1) if n <= place and tokens[place - n : place] == tokens[count - n :])
        best = (tokens[place], length) if length > best[1] else best
    if best[1]:
        return best
    singles = [i for i in range(1, count) if tokens[i - 1] == tokens[-1]]
    return (tokens[singles[-1]], 1) if singles else best


@pytest.mark.parametrize("vocab_size", [2, 5, 40])
def test_drafts_taken_back_leave_no_trace(vocab_size: int) -> None:
    choose = random.Random(vocab_size)
    tokens = [choose.randrange(vocab_size) for _ in range(300)]
    lookup, committed = ContextLookup(), 3
    while committed < 290:
        drafted = [choose.choice((choose.randrange(vocab_size), tokens[committed + i])) for i in range(3)]
        for length in range(4):
            assert lookup.find(tokens[:committed], drafted[:length])[:2] == searched(
                tokens[:committed] + drafted[:length]
            )
        committed += choose.randrange(1, 5)


def test_what_else_followed_the_newest_tokens_is_counted() -> None:
    found = ContextLookup().find([5, 6, 7, 0, 5, 6, 8, 0, 5, 6, 7, 1, 5, 6])
    assert found[:3] == (7, 2, pytest.approx(2 / 3))
    assert found.entropy_nats == pytest.approx(-(2 / 3) * math.log(2 / 3) - (1 / 3) * math.log(1 / 3))
    assert found.margin == pytest.approx(math.log(2.5 / 1.5))
    assert found.recency == pytest.approx(-math.log(4))  # the last 7 stands four places before the next token
    assert ContextLookup().find([5, 6, 7, 5, 6]) == (7, 2, 1.0, 0.0, math.log(3), -math.log(3))
    assert ContextLookup().find([5, 6]) == NOTHING


def test_confidence_says_the_length_of_the_match() -> None:
    lengths = np.arange(MAX_MATCH + 1)
    assert lookup_confidence(0) == 0.0 and lookup_confidence(2) == pytest.approx(2 / 3)
    np.testing.assert_array_equal(lookup_length(lookup_confidence(lengths).astype(np.float32)), lengths)


def test_lookups_are_never_drafted_without_a_test() -> None:
    with pytest.raises(ValueError, match="exit layer 0 must be above 0"):
        Decision(2, {0: 0.0}, AnnealedConfidence(0.0))
    with pytest.raises(ValueError, match="above 0 for looked-up drafts"):
        Action(exit_layer=0, width=2)
    names = [action.name for action in action_grid((0, 2), widths=(1, 3), thresholds=(0.5,))]
    assert names[:3] == ["plain", "lookup_width1_learned0.5", "lookup_width3_learned0.5"]
    assert "exit2_width3" in names
