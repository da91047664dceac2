"""What each layer-free source proposes, by hand."""

import numpy as np
import pytest

from specbound_controller.sources.bigrams import BigramSource, BigramTable
from specbound_controller.sources.context import CELLS, ContextSource
from specbound_controller.sources.own_text import CELLS as OWN_CELLS
from specbound_controller.sources.own_text import OwnText, OwnTextSource
from specbound_controller.sources.recycled import RecycledSource
from specbound_controller.sources.stores import SOURCE_NAMES, Stores


def test_context_proposes_what_followed_the_longest_match_first() -> None:
    source = ContextSource()
    source.extend([1, 2, 3, 9, 2, 3, 7, 1, 2, 3])
    #              ^^^^^^^ 9 followed (1, 2, 3); 7 followed (2, 3), later
    assert source.propose((7, 1, 2, 3)) == [(9, CELLS[3, 0, False]), (7, CELLS[2, 1, False])]


def test_context_counts_what_was_seen_twice_and_prefers_the_latest() -> None:
    source = ContextSource()
    source.extend([5, 6, 5, 6, 5, 8, 5])
    assert source.propose((5,)) == [(8, CELLS[1, 0, False]), (6, CELLS[1, 1, True])]


def test_context_grown_token_by_token_equals_context_grown_at_once() -> None:
    tokens = np.random.default_rng(0).integers(0, 5, 200).tolist()
    at_once, one_by_one = ContextSource(), ContextSource()
    at_once.extend(tokens)
    for token in tokens:
        one_by_one.extend([token])
    for end in range(1, len(tokens)):
        tail = tuple(tokens[max(0, end - 8) : end])
        assert at_once.propose(tail) == one_by_one.propose(tail)


def test_reset_forgets_the_sequence() -> None:
    source, recycled = ContextSource(), RecycledSource()
    source.extend([1, 2, 1])
    recycled.observe(1, [4, 5])
    assert source.propose((1,))
    assert recycled.propose((1,)) == [(4, 0), (5, 1)]
    for each in (source, recycled):
        each.reset()
        assert not each.propose((1,))


def test_recycled_keeps_the_newest_row_of_a_token() -> None:
    source = RecycledSource()
    source.observe(3, [1, 2])
    source.observe(3, [2, 9])
    assert source.propose((7, 3)) == [(2, 0), (9, 1)]


def test_bigrams_leave_out_what_was_not_read() -> None:
    source = BigramSource(BigramTable(np.array([[1, 2], [-1, -1]], dtype=np.int32)))
    assert source.propose((0,)) == [(1, 0), (2, 1)]
    assert source.propose((1,)) == []
    assert source.propose((2,)) == []  # a token that the table does not have


def test_own_text_backs_off_to_shorter_contexts() -> None:
    store = OwnText.count([[1, 2, 3, 4], [9, 2, 3, 5], [8, 2, 3, 5]])
    source = OwnTextSource(store)
    assert source.propose((1, 2, 3)) == [(4, OWN_CELLS[3, 0, 0]), (5, OWN_CELLS[2, 1, 1])]
    assert source.propose((7, 7, 3)) == [(5, OWN_CELLS[1, 0, 1]), (4, OWN_CELLS[1, 1, 0])]


def test_own_text_leaves_the_rarest_contexts_out_where_it_would_grow_too_large() -> None:
    text = [1, 2] * 50 + list(range(100, 400))
    whole, small = OwnText.count([text]), OwnText.count([text], most_bytes=2000)
    assert small.num_bytes <= 2000 < whole.num_bytes
    assert small.followers((1,)) == whole.followers((1,)) == [(2, 50)]
    assert not small.followers((200,))
    assert whole.followers((200,)) == [(201, 1)]


def test_a_source_without_its_store_is_refused_by_name() -> None:
    assert [Stores().source(name).name for name in ("context", "recycled")] == ["context", "recycled"]
    for name in ("bigrams", "own_text", "earlier", "exits"):
        with pytest.raises(ValueError, match=name):
            Stores().source(name)
    assert set(SOURCE_NAMES) == {"context", "recycled", "bigrams", "own_text", "earlier"}
