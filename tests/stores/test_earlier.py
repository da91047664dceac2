"""A policy that learns while it serves drafts better what it has written before, and writes the same."""

import threading

import pytest
import torch
from transformers import PreTrainedModel

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.stores.auto import auto_policy
from specbound.stores.trees import TreeSituation, tree_policy
from specbound_controller.sources.earlier import EarlierSource, EarlierText
from specbound_controller.sources.stores import Stores
from specbound_controller.trees.priced import PricedTreePolicy
from tests.decoding.families import random_model, random_prompt
from tests.stores.test_trees import NUM_LAYERS, costs


def decoder_that_learns(model: PreTrainedModel, earlier: EarlierText | None) -> SpecBoundDecoder:
    policy = tree_policy("tree7", TreeSituation(Stores(earlier=earlier), costs(0.01), NUM_LAYERS))
    return SpecBoundDecoder(model, policy)


def test_a_text_that_was_written_before_is_drafted_from_memory() -> None:
    model, prompt = random_model("llama", dtype=torch.float64, num_layers=NUM_LAYERS), random_prompt(0, 9)
    settings = {"max_new_tokens": 40, "do_sample": True, "temperature": 1.3, "top_k": 0, "seed": 5}
    expected = SpecBoundDecoder(model).generate(prompt, **settings)
    learning, forgetting = decoder_that_learns(model, EarlierText()), decoder_that_learns(model, None)
    runs = [learning.decode(prompt, **settings) for _ in range(2)]
    assert all(torch.equal(run.sequences, expected) for run in runs)
    first, second = (run.stats.tokens_per_step for run in runs)
    assert second > 2.0 * first
    assert runs[1].stats.accepted_by_source["earlier"] > 20
    assert forgetting.decode(prompt, **settings).stats.tokens_per_step == first


def test_the_oldest_contexts_are_forgotten_first() -> None:
    text = EarlierText(most_contexts=40)
    EarlierSource(text).extend(list(range(100)))
    assert len(text.followers) > 40  # one text is never cut
    EarlierSource(text).extend([200, 201])
    source = EarlierSource(text)
    assert [token for token, _ in source.propose((200,))] == [201]
    assert source.propose((0,)) == []


def test_sequences_of_several_threads_share_one_memory() -> None:
    text, failed = EarlierText(), []

    def serve(seed: int) -> None:
        try:
            source = EarlierSource(text)
            for turn in range(300):
                source.extend([(seed * turn) % 17, turn % 5])
                source.propose((turn % 5,))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=serve, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_auto_learns_only_where_it_is_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specbound.stores.auto.local_costs", lambda *_: (costs(0.01), "made up"))
    model = random_model("llama", num_layers=NUM_LAYERS)
    policies = [auto_policy(model, learns=learns) for learns in (False, True)]
    names = []
    for policy in policies:
        assert isinstance(policy, PricedTreePolicy)
        names.append("earlier" in policy.plan.rates)
    assert names == [False, True]
