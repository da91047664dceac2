"""Draft trees on segments: every node gets the logits of its path alone, and the output is plain decoding's."""

import random

import pytest
import torch

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.model.segments import StaticSegments
from specbound.decoding.model.tree_call import NodeRows
from specbound_controller.trees.policy import TreePolicy
from specbound_controller.trees.tree import DraftTree
from tests.decoding.families import VARIANTS, random_model, random_prompt
from tests.decoding.tape import tape_capture
from tests.decoding.test_exit_trees import agreeing_model, exit_policy
from tests.decoding.test_trees import (
    ROUNDING,
    filled_cache,
    path_logits,
    planted_faults,
    policy_for,
    random_tree,
    tree_logits,
)

LENGTHS = (9, 14, 1)


def error_on_segments(name: str, tree: DraftTree, length: int) -> tuple[float, StaticSegments]:
    """Between the logits of a tree's nodes, the third time that it runs, and those of its paths alone."""
    model, prompt = random_model(name, dtype=torch.float64, num_layers=2), random_prompt(length, length)
    adapter = ModelAdapter(model)
    adapter.segments = segments = StaticSegments(adapter, tape_capture)
    for _ in range(3):
        logits = tree_logits(adapter, filled_cache(adapter, prompt), tree, length)
    expected = torch.stack([path_logits(model, prompt, tree, node) for node in range(len(tree.tokens))])
    return float((logits - expected).abs().max()), segments


@pytest.mark.parametrize("num_nodes", [5, 9, 40, 64])
@torch.inference_mode()
def test_every_node_gets_the_logits_of_its_path(num_nodes: int) -> None:
    tree = random_tree(random.Random(num_nodes), num_nodes)
    error, segments = error_on_segments("mistral-sliding", tree, 17)  # its windows hold 12 tokens
    assert error < ROUNDING
    (segment,) = segments.segments.values()
    assert segment.is_captured and segment.shape.num_rows == segment.shape.num_nodes >= num_nodes


@torch.inference_mode()
def test_a_tree_of_more_nodes_than_a_segment_holds_runs_without() -> None:
    error, segments = error_on_segments("llama", random_tree(random.Random(1), 65), 9)
    assert error < ROUNDING and not segments.segments


@torch.inference_mode()
def test_planted_faults_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = random_tree(random.Random(5), 12)
    for fault in planted_faults(tree):
        with monkeypatch.context() as patch:
            patch.setattr(NodeRows, "__init__", fault)
            assert error_on_segments("llama", tree, 7)[0] > 100 * ROUNDING, fault.__name__


@pytest.mark.parametrize(
    ("name", "exit_layer"), [*((name, 0) for name in VARIANTS), ("llama", 2), ("gpt2", 2), ("mistral-sliding", 2)]
)
def test_output_is_plain_decodings(name: str, exit_layer: int) -> None:
    model = agreeing_model(name) if exit_layer else random_model(name, dtype=torch.float64)
    prompts = [random_prompt(length, length) for length in LENGTHS]
    expected = [SpecBoundDecoder(model).generate(prompt, max_new_tokens=24)[0].tolist() for prompt in prompts]
    policy: TreePolicy = exit_policy(exit_layer) if exit_layer else policy_for(expected, random.Random(3))
    decoder = SpecBoundDecoder(model, policy)
    decoder.adapter.segments = segments = StaticSegments(decoder.adapter, tape_capture)
    outputs = [decoder.decode(prompt, max_new_tokens=24) for prompt in prompts]
    assert [output.sequences[0].tolist() for output in outputs] == expected
    steps = [step for output in outputs for step in output.stats.steps]
    assert sum(step.num_accepted for step in steps) > 0
    trees = [shape for shape, segment in segments.segments.items() if shape.num_nodes and segment.is_captured]
    assert {shape.first for shape in trees} == {0, exit_layer}


def test_a_cache_that_ran_a_tree_on_segments_goes_on_without_them() -> None:
    model = random_model("gpt2", dtype=torch.float64)
    prompt = random_prompt(4, 9)
    plain = SpecBoundDecoder(model)
    expected = plain.generate(prompt, max_new_tokens=40)[0].tolist()
    decoder = SpecBoundDecoder(model, policy_for([expected], random.Random(2)))
    decoder.adapter.segments = StaticSegments(decoder.adapter, tape_capture)
    half = decoder.decode(prompt, max_new_tokens=20)
    decoder.generate(random_prompt(5, 30), max_new_tokens=20)  # takes the buffers
    rest = plain.decode(half.sequences, max_new_tokens=20, past_key_values=half.past_key_values)
    assert rest.sequences[0].tolist() == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", VARIANTS)
def test_output_is_plain_decodings_with_cuda_graphs(name: str) -> None:
    model, prompt = agreeing_model(name).cuda(), random_prompt(0, 235).cuda()
    expected = SpecBoundDecoder(model).generate(prompt, max_new_tokens=60)
    for policy in (exit_policy(2), policy_for([expected[0].tolist()], random.Random(3))):
        decoder = SpecBoundDecoder(model, policy, compile=True)
        for _ in range(2):  # from a context that outgrows its buffers, then from larger ones
            assert torch.equal(decoder.generate(prompt, max_new_tokens=60), expected)
        assert isinstance(decoder.adapter.segments, StaticSegments)
        shapes = decoder.adapter.segments.segments
        assert any(segment.is_captured for shape, segment in shapes.items() if shape.num_nodes)
