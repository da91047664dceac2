"""Draft trees: every node gets the logits of its path alone, and the output is plain decoding's."""

import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.model.cache import DecodeCache
from specbound.decoding.model.tree_call import NodeRows
from specbound.decoding.tree_step import TreeDraft, TreeRunner
from specbound_controller.costs import ROW_KNOTS, WORK_NAMES, CostTable
from specbound_controller.records import Decision
from specbound_controller.sources.bigrams import BigramTable
from specbound_controller.sources.context import ContextSource
from specbound_controller.sources.stores import Stores
from specbound_controller.trees.growth import cut_together
from specbound_controller.trees.plan import TreePlan
from specbound_controller.trees.policy import TreePolicy
from specbound_controller.trees.priced import PricedTreePolicy
from specbound_controller.trees.tree import DraftTree, tree_of
from tests.decoding.families import COMMON, VARIANTS, random_model, random_prompt

VOCABULARY = COMMON["vocab_size"]
NEW_TOKENS = 24
ROUNDING = 1e-5
"""Some families take the softmax of attention in float32 whatever the weights are."""


def random_tree(rng: random.Random, num_nodes: int) -> DraftTree:
    """A tree of a random shape with random tokens."""
    parents, tokens = [-1], [rng.randrange(VOCABULARY)]
    while len(parents) < num_nodes:
        parent, token = rng.randrange(len(parents)), rng.randrange(VOCABULARY)
        if not any(p == parent and t == token for p, t in zip(parents, tokens, strict=True)):
            parents.append(parent)
            tokens.append(token)
    return tree_of(parents, tokens)


def filled_cache(adapter: ModelAdapter, prompt: Tensor) -> DecodeCache:
    cache = adapter.new_cache(8)
    adapter.run_layers(adapter.embed(prompt, 0), 0, adapter.num_layers, cache, 0)
    return cache


def tree_logits(adapter: ModelAdapter, cache: DecodeCache, tree: DraftTree, position: int) -> Tensor:
    draft = TreeDraft(tree, position, Decision(w_max=9, tree=TreePlan(len(tree.tokens))))
    (logits,) = TreeRunner(adapter, cache).run([draft], [0])
    return logits


def path_logits(model: PreTrainedModel, prompt: Tensor, tree: DraftTree, node: int) -> Tensor:
    """What transformers' own forward says after a node's path."""
    path = torch.tensor([[tree.tokens[n] for n in tree.path(node)]])
    return model(torch.cat((prompt, path), 1)).logits[0, -1]


def largest_error(model: PreTrainedModel, prompt: Tensor, tree: DraftTree) -> float:
    """Between the logits of one pass over a tree and those of its paths alone."""
    adapter = ModelAdapter(model)
    logits = tree_logits(adapter, filled_cache(adapter, prompt), tree, prompt.shape[1])
    expected = torch.stack([path_logits(model, prompt, tree, node) for node in range(len(tree.tokens))])
    return float((logits - expected).abs().max())


@pytest.mark.parametrize("name", VARIANTS)
@torch.inference_mode()
def test_every_node_gets_the_logits_of_its_path(name: str) -> None:
    model, rng = random_model(name, dtype=torch.float64), random.Random(1)
    for length in (1, 10, 17):  # the sliding windows of these models hold 12 tokens
        assert largest_error(model, random_prompt(length, length), random_tree(rng, 14)) < ROUNDING


@given(seed=st.integers(0, 2**32), num_nodes=st.integers(2, 40), length=st.integers(1, 30))
@settings(max_examples=25, deadline=None)
@torch.inference_mode()
def test_every_node_of_any_tree_gets_the_logits_of_its_path(seed: int, num_nodes: int, length: int) -> None:
    model = random_model("mistral-sliding", dtype=torch.float64, num_layers=2)
    assert largest_error(model, random_prompt(seed, length), random_tree(random.Random(seed), num_nodes)) < ROUNDING


def planted_faults(tree: DraftTree) -> list[Callable[[NodeRows, Any], None]]:
    """In place of `NodeRows.__init__`: a node that misses its parent, is too deep, or sees a stranger."""
    node = next(n for n in range(len(tree.tokens)) if tree.depths[n] >= 2 and len(tree.path(n)) < n + 1)
    make = NodeRows.__init__

    def blind(self: NodeRows, parents: Any) -> None:
        make(self, parents)
        self.sees[node, tree.parents[node]] = False

    def misplaced(self: NodeRows, parents: Any) -> None:
        make(self, parents)
        self.depths[node] += 1

    def nosy(self: NodeRows, parents: Any) -> None:
        make(self, parents)
        self.sees[node, next(n for n in range(node) if n not in tree.path(node))] = True

    return [blind, misplaced, nosy]


@torch.inference_mode()
def test_planted_faults_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompt = random_model("llama", dtype=torch.float64), random_prompt(0, 7)
    tree = random_tree(random.Random(5), 12)
    for fault in planted_faults(tree):
        with monkeypatch.context() as patch:
            patch.setattr(NodeRows, "__init__", fault)
            assert largest_error(model, prompt, tree) > 100 * ROUNDING, fault.__name__
    assert largest_error(model, prompt, tree) < ROUNDING


@pytest.mark.parametrize("name", ["llama", "mistral-sliding", "gpt2"])
@torch.inference_mode()
def test_a_kept_path_leaves_the_cache_that_its_tokens_alone_leave(name: str) -> None:
    model, prompt, rng = random_model(name, dtype=torch.float64), random_prompt(0, 14), random.Random(2)
    adapter = ModelAdapter(model)
    for _ in range(4):
        tree = random_tree(rng, 12)
        path = tree.path(rng.randrange(1, 12))
        cache = filled_cache(adapter, prompt)
        tree_logits(adapter, cache, tree, prompt.shape[1])
        cache.keep_path(prompt.shape[1], path)
        tokens = torch.tensor([[tree.tokens[node] for node in path]])
        expected = filled_cache(adapter, torch.cat((prompt, tokens), 1))
        assert cache.lengths() == expected.lengths()
        for layer, other in zip(cache.layers, expected.layers, strict=True):
            held = slice(0, layer.lengths[0])
            assert torch.allclose(layer.keys[:, :, held], other.keys[:, :, held], atol=1e-9)
            assert torch.allclose(layer.values[:, :, held], other.values[:, :, held], atol=1e-9)


def policy_for(outputs: list[list[int]], rng: random.Random, **settings: Any) -> TreePolicy:
    """Trees whose bigrams know the right token at most places, at any rank."""
    best = np.array([rng.sample(range(VOCABULARY), 6) for _ in range(VOCABULARY)], dtype=np.int32)
    for output in outputs:
        for token, following in pairwise(output):
            if rng.random() < 0.7:
                best[token, rng.randrange(6)] = following
    cells = {"context": ContextSource.num_cells, "recycled": 8, "bigrams": 8}
    rates = {name: [rng.random() for _ in range(count)] for name, count in cells.items()}
    plan = {"max_nodes": 12, "max_depth": 6, "breadth": 4, **settings}
    return TreePolicy(TreePlan(rates=rates, stores=Stores(BigramTable(best)), **plan))


def decode_both(model: PreTrainedModel, exactness: str, first: int, **arguments: Any) -> tuple[list, list, int, int]:
    """Outputs of plain decoding and of trees, with how many drafts were accepted and how many paths were moved."""
    prompts = [random_prompt(first + i, length)[0] for i, length in enumerate((9, 14, 5))]
    arguments = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "return_dict_in_generate": True, **arguments}
    plain = SpecBoundDecoder(model, exactness=exactness)
    expected = [plain.decode([p], **_of_row(arguments, i)).sequences[0].tolist() for i, p in enumerate(prompts)]
    rng = random.Random(first)
    decoder = SpecBoundDecoder(model, policy_for(expected, rng), exactness=exactness)
    outputs, steps = [], []
    for i, prompt in enumerate(prompts):
        output = decoder.decode([prompt], **_of_row(arguments, i))
        outputs.append(output.sequences[0].tolist())
        steps += output.stats.steps
    moved = sum(step.path != tuple(range(1, len(step.path) + 1)) for step in steps)
    return expected, outputs, sum(step.num_accepted for step in steps), moved


def _of_row(arguments: dict[str, Any], row: int) -> dict[str, Any]:
    return {**arguments, "seed": arguments["seed"] + row} if "seed" in arguments else arguments


@pytest.mark.parametrize("name", VARIANTS)
def test_trees_give_plain_decodings_output(name: str) -> None:
    expected, outputs, num_accepted, num_moved = decode_both(random_model(name, dtype=torch.float64), "token", 3)
    assert outputs == expected
    assert num_accepted > 0
    assert num_moved > 0


SETTINGS = {
    "sampled": {"do_sample": True, "temperature": 0.7, "seed": 5},
    "nucleus": {"do_sample": True, "top_p": 0.8, "top_k": 20, "seed": 6},
    "penalised": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3},
    "penalised and sampled": {"do_sample": True, "repetition_penalty": 1.2, "min_new_tokens": 5, "seed": 2},
    "one token": {"max_new_tokens": 1},
    "two tokens": {"max_new_tokens": 2},
    "several ends": {"eos_token_id": list(range(0, VOCABULARY, 7))},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_trees_give_plain_decodings_output_with_every_setting(setting: str) -> None:
    expected, outputs, _, _ = decode_both(random_model("llama", dtype=torch.float64), "token", 4, **SETTINGS[setting])
    assert outputs == expected


@pytest.mark.parametrize("setting", ["greedy", "sampled"])
@pytest.mark.parametrize("name", ["llama", "mistral-sliding", "gpt2"])
def test_bitwise_trees_give_plain_decodings_output_in_16_bits(name: str, setting: str) -> None:
    model = random_model(name, dtype=torch.bfloat16, num_layers=2)
    expected, outputs, num_accepted, num_moved = decode_both(model, "bitwise", 7, **SETTINGS.get(setting, {}))
    assert outputs == expected
    assert num_accepted > 0
    assert num_moved > 0


@pytest.mark.parametrize("exactness", ["token", "bitwise"])
@pytest.mark.parametrize("name", ["llama", "mistral-sliding", "opt"])
def test_trees_in_a_batch_give_each_rows_own_output(name: str, exactness: str) -> None:
    model = random_model(name, dtype=torch.float64 if exactness == "token" else torch.bfloat16, num_layers=2)
    prompts = [random_prompt(i, length)[0] for i, length in enumerate((9, 14, 5))]
    arguments: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "do_sample": False}
    plain = SpecBoundDecoder(model, exactness=exactness)
    expected = [plain.decode([prompt], **arguments).sequences[0].tolist() for prompt in prompts]
    decoder = SpecBoundDecoder(model, policy_for(expected, random.Random(1)), exactness=exactness)
    output = decoder.decode(prompts, **arguments)
    assert [row[-NEW_TOKENS:] for row in output.sequences.tolist()] == [row[-NEW_TOKENS:] for row in expected]
    assert output.stats.num_accepted > 0


@pytest.mark.parametrize("growth", ["eagle2", "fixed"])
def test_other_growths_give_plain_decodings_output(growth: str) -> None:
    model, prompt = random_model("llama", dtype=torch.float64), random_prompt(1, 9)
    arguments: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "do_sample": False}
    expected = SpecBoundDecoder(model).decode(prompt, **arguments).sequences
    policy = policy_for(expected.tolist(), random.Random(1), growth=growth, beam=3, children=((3,), (2, 1), (1, 1)))
    output = SpecBoundDecoder(model, policy).decode(prompt, **arguments)
    assert torch.equal(output.sequences, expected)
    assert output.stats.num_accepted > 0


@pytest.mark.parametrize("exactness", ["token", "bitwise"])
def test_trees_that_are_cut_together_give_each_rows_own_output(exactness: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dtype = torch.float64 if exactness == "token" else torch.bfloat16
    model = random_model("llama", dtype=dtype)
    prompts = [random_prompt(7 + i, length)[0].tolist() for i, length in enumerate((9, 14, 5))]
    plain = SpecBoundDecoder(model, exactness=exactness)
    expected = [plain.generate([prompt], max_new_tokens=NEW_TOKENS)[0].tolist() for prompt in prompts]
    calls = {f"layer_calls_rows_{rows}": 1e-3 * (1 if rows <= 16 else 40) for rows in ROW_KNOTS}
    table = CostTable({**dict.fromkeys(WORK_NAMES, 0.0), **calls}, "none", "here", 0.0, 30)
    plan = policy_for(expected, random.Random(4)).plan
    decoder = SpecBoundDecoder(model, PricedTreePolicy(plan, table, 4), exactness=exactness)
    cuts: list[tuple[int, int]] = []

    def watched(trees: list[DraftTree], costs: list[float]) -> None:
        before = sum(tree.num_drafted for tree in trees)
        cut_together(trees, costs)
        cuts.append((before, sum(tree.num_drafted for tree in trees)))

    monkeypatch.setattr("specbound.decoding.loop.cut_together", watched)
    output = decoder.decode(prompts, max_new_tokens=NEW_TOKENS)
    lengths = [len(prompt) for prompt in prompts]
    new = [row[max(lengths) :].tolist() for row in output.sequences]
    assert new == [row[length:] for row, length in zip(expected, lengths, strict=True)]
    assert max(cuts)[0] > 16  # a step has 16 rows at most, with one to three roots
    assert all(13 <= after <= 15 for before, after in cuts if before > 15)
    assert sum(after for _, after in cuts) <= sum(stats.num_drafted for stats in output.row_stats)
    assert sum(stats.num_accepted for stats in output.row_stats) > 0


def test_a_tree_that_is_a_chain_makes_the_calls_of_a_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompt = random_model("llama", dtype=torch.float64), random_prompt(1, 9)
    arguments: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "do_sample": False}
    expected = SpecBoundDecoder(model).decode(prompt, **arguments).sequences
    monkeypatch.setattr(ModelAdapter, "run_rows", lambda *arguments: pytest.fail("a call of a tree"))
    policy = policy_for(expected.tolist(), random.Random(1), breadth=1)
    output = SpecBoundDecoder(model, policy).decode(prompt, **arguments)
    assert torch.equal(output.sequences, expected)
    assert output.stats.num_accepted > 0


def test_records_say_what_was_drafted_and_taken() -> None:
    model, prompt = random_model("llama", dtype=torch.float64), random_prompt(1, 9)
    arguments: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "do_sample": False}
    expected = SpecBoundDecoder(model).decode(prompt, **arguments).sequences
    output = SpecBoundDecoder(model, policy_for(expected.tolist(), random.Random(1))).decode(prompt, **arguments)
    assert sum(step.num_emitted for step in output.stats.steps) == NEW_TOKENS - 1
    for step in output.stats.steps:
        assert len(step.sources) == len(step.parents) == step.num_drafted <= 12
        assert len(step.path) == step.num_accepted
        assert list(step.path) == sorted(step.path)
        assert step.layer_calls_by_rows == {step.num_drafted + 1: 4}
        assert step.head_reads_by_rows == {step.num_drafted + 1: 1}
