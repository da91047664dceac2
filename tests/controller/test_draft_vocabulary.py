"""Draft vocabularies: which tokens, equality, refusals."""

import copy
import hashlib
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from specbound_controller.actions import Action
from specbound_controller.controller import CONFIG_FILE, WEIGHTS_FILE, Controller
from specbound_controller.costs import CostTable
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


@pytest.fixture
def drafting(controller_of: Callable[..., Controller]) -> Controller:
    return replace(controller_of(), draft_vocabulary=vocabulary(1, 4, 9, 30))


def test_controller_keeps_its_vocabulary(
    drafting: Controller, controller_of: Callable[..., Controller], tmp_path: Path
) -> None:
    drafting.save(tmp_path / "some")
    assert Controller.load(tmp_path / "some").draft_vocabulary == drafting.draft_vocabulary
    controller_of().save(tmp_path / "all")
    assert Controller.load(tmp_path / "all").draft_vocabulary is None
    assert "draft_vocabulary" not in load_file(tmp_path / "all" / WEIGHTS_FILE)


def test_every_decision_that_drafts_says_the_vocabulary(
    drafting: Controller, costs_of: Callable[..., CostTable]
) -> None:
    static = replace(drafting, config=replace(drafting.config, static_actions={"none": Action(4, 2)}))
    for controller, level in ((drafting, "none"), (static, "none"), (drafting, "int8")):
        policy = controller.policy(costs_of(), level)
        said = [decision.draft_vocabulary for decision in policy.decisions if decision.w_max > 0]
        assert said and set(said) == {drafting.draft_vocabulary}


def test_log_of_other_tokens_is_refused(drafting: Controller, controller_of: Callable[..., Controller]) -> None:
    drafting.check_draft_vocabulary(vocabulary(1, 4, 9, 30))
    controller_of().check_draft_vocabulary(None)
    for controller, other in ((drafting, None), (drafting, vocabulary(1, 4)), (controller_of(), vocabulary(1, 4))):
        with pytest.raises(InputError, match=r"trained on exits that read .*; train a controller on this log"):
            controller.check_draft_vocabulary(other)


@pytest.mark.parametrize(
    "ids",
    [
        np.array([[1, 4]]),
        np.array([1]),
        np.array([4, 1]),
        np.array([1, 1]),
        np.array([-4, 1]),
        np.array([1, 4], dtype=np.int32),
        np.array([1.0, 4.0]),
        np.empty(0, dtype=np.int64),
    ],
)
def test_signed_weights_with_another_array_are_refused(drafting: Controller, tmp_path: Path, ids: np.ndarray) -> None:
    drafting.save(tmp_path)
    arrays = load_file(tmp_path / WEIGHTS_FILE)
    weights = save({**arrays, "draft_vocabulary": ids})
    (tmp_path / WEIGHTS_FILE).write_bytes(weights)
    (tmp_path / CONFIG_FILE).write_text(drafting.config.to_json(hashlib.sha256(weights).hexdigest()))
    with pytest.raises(InputError, match="holds no weights for this config: draft_vocabulary must") as error:
        Controller.load(tmp_path)
    assert "\n" not in str(error.value)


def test_array_that_belongs_nowhere_is_refused(drafting: Controller, tmp_path: Path) -> None:
    """Else a vocabulary whose name was damaged would not be missed."""
    drafting.save(tmp_path)
    arrays = load_file(tmp_path / WEIGHTS_FILE)
    weights = save({**arrays, "draft_vocabularx": arrays.pop("draft_vocabulary")})
    (tmp_path / WEIGHTS_FILE).write_bytes(weights)
    (tmp_path / CONFIG_FILE).write_text(drafting.config.to_json(hashlib.sha256(weights).hexdigest()))
    with pytest.raises(InputError, match="unknown array 'draft_vocabularx'"):
        Controller.load(tmp_path)
