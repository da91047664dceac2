"""Trees that an exit drafts too: the output is plain decoding's, and every node runs every layer once."""

import random
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.model.adapter import ModelAdapter
from specbound_controller.draft_vocabulary import DraftVocabulary
from specbound_controller.errors import InputError
from specbound_controller.policy import DraftingFrom
from specbound_controller.sources.context import ContextSource
from specbound_controller.trees.exit_growth import EXIT
from specbound_controller.trees.plan import TreePlan
from specbound_controller.trees.policy import TreePolicy
from tests.decoding.families import COMMON, VARIANTS, random_model, random_prompt
from tests.decoding.test_trees import SETTINGS

NEW_TOKENS = 24
LENGTHS = (9, 14, 5)


def agreeing_model(name: str, dtype: torch.dtype = torch.float64, num_layers: int = 4) -> PreTrainedModel:
    """A random model whose deeper half says little, so that its exits agree with it."""
    model = random_model(name, dtype=dtype, num_layers=num_layers)
    with torch.no_grad():
        for layer in ModelAdapter(model).layers[num_layers // 2 :]:
            for parameter in layer.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(0.3)
    return model


def exit_policy(exit_layer: int, **settings: Any) -> TreePolicy:
    rng = random.Random(3)
    rates = {"context": [0.3 * rng.random() for _ in range(ContextSource.num_cells)]}
    usual = {"max_nodes": 12, "max_depth": 6, "exit_beam": 2, "exit_survival": 0.0, "exit_breadth": 3, "rates": rates}
    return TreePolicy(TreePlan(**{**usual, "exit_layer": exit_layer, **settings}))


def decode_both(
    model: PreTrainedModel, policy: TreePolicy, exactness: str = "token", **settings: Any
) -> tuple[list, list, list]:
    """Outputs of plain decoding and of trees for some prompts, and the steps of the trees."""
    prompts = [random_prompt(i, length)[0] for i, length in enumerate(LENGTHS)]
    arguments: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "do_sample": False, **settings}
    plain = SpecBoundDecoder(model, exactness=exactness)
    decoder = SpecBoundDecoder(model, policy, exactness=exactness)
    expected = [plain.decode([prompt], **arguments).sequences[0].tolist() for prompt in prompts]
    outputs = [decoder.decode([prompt], **arguments) for prompt in prompts]
    steps = [step for output in outputs for step in output.stats.steps]
    return expected, [output.sequences[0].tolist() for output in outputs], steps


def accepted_of_exits(steps: list) -> int:
    return sum(step.sources[node - 1] == EXIT for step in steps for node in step.path)


@pytest.mark.parametrize("name", VARIANTS)
def test_exits_in_trees_give_plain_decodings_output(name: str) -> None:
    expected, outputs, steps = decode_both(agreeing_model(name), exit_policy(2))
    assert outputs == expected
    assert accepted_of_exits(steps) > 0


@pytest.mark.parametrize("setting", SETTINGS)
def test_exits_in_trees_give_plain_decodings_output_with_every_setting(setting: str) -> None:
    expected, outputs, _ = decode_both(agreeing_model("llama"), exit_policy(2), **SETTINGS[setting])
    assert outputs == expected


def test_sampling_noise_is_shared_with_the_exit() -> None:
    """At a temperature that makes the text random an exit without the position's noise would hardly ever be right."""
    model = agreeing_model("llama")
    _, _, steps = decode_both(model, exit_policy(3, exit_breadth=1, exit_beam=1), do_sample=True, seed=3)
    assert accepted_of_exits(steps) > 0.5 * sum(step.sources.count(EXIT) for step in steps)


@pytest.mark.parametrize("setting", ["greedy", "sampled"])
@pytest.mark.parametrize("name", ["llama", "mistral-sliding", "gpt2"])
def test_exits_in_bitwise_trees_give_plain_decodings_output_in_16_bits(name: str, setting: str) -> None:
    model = agreeing_model(name, torch.bfloat16, num_layers=2)
    expected, outputs, steps = decode_both(model, exit_policy(1), "bitwise", **SETTINGS.get(setting, {}))
    assert outputs == expected
    assert accepted_of_exits(steps) > 0


@pytest.mark.parametrize("exactness", ["token", "bitwise"])
@pytest.mark.parametrize("name", ["llama", "mistral-sliding", "opt"])
def test_exits_in_trees_of_a_batch_give_each_rows_own_output(name: str, exactness: str) -> None:
    model = agreeing_model(name, torch.float64 if exactness == "token" else torch.bfloat16, num_layers=2)
    prompts = [random_prompt(i, length)[0] for i, length in enumerate(LENGTHS)]
    arguments: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "do_sample": False}
    plain = SpecBoundDecoder(model, exactness=exactness)
    expected = [plain.decode([prompt], **arguments).sequences[0].tolist() for prompt in prompts]
    output = SpecBoundDecoder(model, exit_policy(1), exactness=exactness).decode(prompts, **arguments)
    assert [row[-NEW_TOKENS:] for row in output.sequences.tolist()] == [row[-NEW_TOKENS:] for row in expected]
    assert accepted_of_exits(output.stats.steps) > 0


def test_every_node_runs_every_layer_once() -> None:
    _, _, steps = decode_both(agreeing_model("llama"), exit_policy(2, exit_beam=3))
    for step in steps:
        assert step.num_layer_rows == 4 * (step.num_drafted + 1)
        assert step.num_drafted <= 12
        assert set(step.exit_layers) <= {0, 2}
        assert [layer == 2 for layer in step.exit_layers] == [source == EXIT for source in step.sources]
    assert any(step.num_exit_tests > 1 for step in steps)


def test_nodes_of_one_depth_run_in_one_call() -> None:
    _, _, steps = decode_both(agreeing_model("llama"), exit_policy(2, exit_beam=3, max_depth=3))
    most = max(steps, key=lambda step: step.num_exit_tests)
    assert most.num_exit_tests == 1 + 3 + 3
    assert sum(most.head_reads_by_rows.values()) == 3 + 1  # the root, two depths, verification


def test_an_exit_reads_the_draft_vocabulary_only() -> None:
    vocabulary = DraftVocabulary(tuple(range(0, COMMON["vocab_size"], 2)))
    policy = DraftingFrom(vocabulary, exit_policy(2, rates={}))
    expected, outputs, steps = decode_both(agreeing_model("llama"), policy)  # type: ignore[arg-type]
    assert outputs == expected
    assert accepted_of_exits(steps) > 0


def test_an_exit_that_the_model_does_not_have_is_refused() -> None:
    with pytest.raises(InputError, match=r"exit_layer must be in \[0, 3\] for a 4-layer model, got 4"):
        decode_both(random_model("llama"), exit_policy(4))
