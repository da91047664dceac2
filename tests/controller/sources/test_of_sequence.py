"""Sources of one sequence see what is committed, in order, and how often they were right counts as they were before."""

import numpy as np

from specbound_controller.sources.bigrams import BigramTable
from specbound_controller.sources.of_sequence import SequenceSources
from specbound_controller.sources.recent import SHARE, START
from specbound_controller.sources.stores import Stores

STORES = Stores(BigramTable(np.array([[1, 2], [2, 3], [0, 1], [3, 3]], dtype=np.int32)))


def test_first_candidates_count_as_they_were_before_the_answer() -> None:
    tokens, sources = [0, 1, 2, 1, 3], SequenceSources()
    names = ("context", "recycled", "bigrams")
    sources.asked(names, STORES, tokens, 2)
    recent = sources.watch(names)
    assert recent is sources.watch(names) and recent.of(("bigrams", "own_text")) == [START, START]
    sources.verified(tokens, 1, [2, 9])  # bigrams say 2 after 1, which comes; context and recycled say nothing yet
    hit = START + (1 - START) * SHARE
    assert recent.means == {"context": START, "recycled": START, "bigrams": hit}
    sources.verified(tokens, 2, [1, 9])  # bigrams say 0 after 2, but 1 comes
    assert recent.means["bigrams"] == hit + (0 - hit) * SHARE
    sources.verified(tokens, 3, [3, 9])  # all say 2 after 1, the context as it was seen; 3 comes
    miss = START - START * SHARE
    assert recent.means["context"] == recent.means["recycled"] == miss
    recycled, context = sources.asked(("recycled", "context"), STORES, tokens, 5)
    assert recycled.propose((1,)) == [(3, 0), (9, 1)]
    assert context.propose((1,))[0][0] == 3


def test_nobody_is_shown_anything_where_nothing_was_asked() -> None:
    sources = SequenceSources()
    assert not sources.learns and sources.recycled is None
    sources.verified([0, 1], 0, [1])
    sources.asked(("bigrams",), STORES, [0, 1], 2)
    assert not sources.learns
    sources.asked(("recycled",), STORES, [0, 1], 2)
    assert sources.learns
