"""Draft vocabularies: which tokens, equality, refusals."""

import copy
import pickle

import numpy as np
import pytest

from specbound_controller.draft_vocabulary import DraftVocabulary, describe, most_frequent
from specbound_controller.errors import InputError
from specbound_controller.policy import DraftingFrom, StaticPolicy


def vocabulary(*ids: int) -> DraftVocabulary:
    return DraftVocabulary(np.array(ids, dtype=np.int64))


def test_most_frequent_tokens_come_first_ties_by_id_end_tokens_always() -> None:
    counts = np.array([0, 5, 2, 2, 9, 2, 0, 0])
    assert most_frequent(counts, 2).ids.tolist() == [1, 4]
    assert most_frequent(counts, 4).ids.tolist() == [1, 2, 3, 4]
    assert most_frequent(counts, 7).ids.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert most_frequent(counts, 3, always=[7]).ids.tolist() == [1, 4, 7]
    assert most_frequent(counts, 8, always=[7]).ids.tolist() == list(range(8))


def test_share_of_counted_tokens() -> None:
    counts = np.array([0, 6, 2, 0, 2])
    assert vocabulary(1, 4).share(counts) == pytest.approx(0.8)
    assert np.isnan(vocabulary(1, 4).share(np.zeros(5)))


@pytest.mark.parametrize(("size", "always"), [(1, ()), (0, ()), (6, ()), (2, (1, 2, 3))])
def test_size_out_of_range_is_refused(size: int, always: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=f"draft_vocabulary must be in .*got {size}"):
        most_frequent(np.ones(5, dtype=np.int64), size, always)


@pytest.mark.parametrize(
    "ids",
    [[], [3], [3, 3], [4, 3], [-1, 3], [[1, 2]], [1.0, 2.0]],
    ids=["none", "one", "twice", "descending", "negative", "two dimensions", "floats"],
)
def test_what_is_no_vocabulary_is_refused(ids: list[float]) -> None:
    with pytest.raises(ValueError, match="draft_vocabulary must"):
        DraftVocabulary(np.array(ids))


def test_equal_tokens_are_equal_whatever_the_object() -> None:
    one, other = vocabulary(1, 4, 9), vocabulary(1, 4, 8)
    assert one == vocabulary(1, 4, 9) == copy.deepcopy(one) == pickle.loads(pickle.dumps(one)) != other
    assert len({one, vocabulary(1, 4, 9), other}) == 2
    assert one != (1, 4, 9) and len(one) == 3 and "3 tokens" in describe(one) and describe(None) == "all tokens"


def test_ids_cannot_be_changed() -> None:
    ids = np.array([1, 4, 9])
    kept = DraftVocabulary(ids)
    ids[0] = 2
    assert kept.ids.tolist() == [1, 4, 9]
    with pytest.raises(ValueError, match="read-only"):
        kept.ids[0] = 2


def test_drafting_from_changes_decisions_in_nothing_else() -> None:
    policy = StaticPolicy((2, 3), 0.4, 5, alpha=0.5, d_max=2)
    over = DraftingFrom(vocabulary(1, 2), policy)
    over.reset()
    found, wanted = over.decide(None), policy.decide(None)
    assert found.draft_vocabulary == vocabulary(1, 2) and wanted.draft_vocabulary is None
    assert (found.w_max, found.thresholds, found.score, found.d_max) == (5, {2: 0.4, 3: 0.4}, wanted.score, 2)
    assert not over.needs_features and not over.needs_full_signals
