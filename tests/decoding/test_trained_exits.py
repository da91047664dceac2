"""Trained exits in the decoder: they draft, and the output and the model stay what they were."""

import hashlib
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.model.exit_modules import ExitPlace
from specbound.decoding.model.row_stable import row_stable_model
from specbound.decoding.model.trained_head import TrainedHead
from specbound.evaluation.verify import RandomPolicy, RandomTrees
from specbound_controller.draft_vocabulary import DraftVocabulary
from specbound_controller.errors import InputError
from specbound_controller.policy import DraftingFrom, Policy, StaticPolicy
from tests.decoding.families import VARIANTS, random_model, random_prompt
from tests.decoding.random_exits import random_exits
from tests.decoding.trials import ROUNDS_IN_FP32, Trial, run_call

SAMPLED = {"do_sample": True, "temperature": 0.8, "top_k": 0}


def checksum(model: PreTrainedModel) -> str:
    """Of all parameters and buffers, of the config, and of what every module is and holds."""
    digest = hashlib.sha256(repr(model.config.to_dict()).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    for name, module in model.named_modules():
        digest.update(repr((name, type(module).__name__, sorted(vars(module)), module.training)).encode())
    return digest.hexdigest()


@pytest.mark.parametrize("variant", VARIANTS)
def test_output_equals_plain_decodings_at_every_family(variant: str) -> None:
    """In fp64 not one token may differ, and drafts are really accepted."""
    dtype = "fp32" if variant in ROUNDS_IN_FP32 else "fp64"
    for trial in (
        Trial(variant, dtype, "exits", 20, 1, 30, {}, call="single", exits="mlp"),
        Trial(variant, dtype, "trees", 20, 1, 24, SAMPLED, call="batch", exits="low_rank"),
    ):
        outcome = run_call(trial)
        assert not outcome.is_bug, outcome.difference
        assert outcome.num_drafted > 0


@pytest.mark.parametrize(
    ("variant", "policy", "call"),
    [("llama", "fixed", "batch"), ("gpt2", "trees", "single"), ("opt", "random", "continued")],
)
def test_bitwise_outputs_are_equal_in_16_bits(variant: str, policy: str, call: str) -> None:
    outcome = run_call(Trial(variant, "bf16", policy, 12, 1, 24, {}, "bitwise", call, "mlp"))
    assert outcome.difference is None, outcome.difference


@pytest.mark.parametrize("policy", [StaticPolicy((1, 2), 0.1, 5), RandomPolicy(4, 1), RandomTrees(4, 2)])
def test_model_is_the_same_before_and_after(policy: Policy) -> None:
    model = random_model("llama", 1)
    before = checksum(model)
    decoder = SpecBoundDecoder(model, policy, exits=random_exits(model))
    decoder.generate(random_prompt(1, 9), max_new_tokens=40)
    SpecBoundDecoder(model, policy, exactness="bitwise", exits=random_exits(model)).generate(
        random_prompt(1, 9), max_new_tokens=20
    )
    assert checksum(model) == before


class Places:
    """Every place that exits were read at, with the states of the full model as a plain forward gives them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found: list[tuple[ExitPlace, Tensor]] = []
        whole = ModelAdapter.read_exit

        def watched(adapter: ModelAdapter, hidden: Tensor, head: Any, place: Any = None) -> Tensor:
            self.found.append((place, hidden))
            return whole(adapter, hidden, head, place)

        monkeypatch.setattr(ModelAdapter, "read_exit", watched)


@torch.no_grad()
def last_states(model: PreTrainedModel, sequence: Tensor) -> Tensor:
    """The full model's states before its last norm at every position. (1, T) -> (T, D)"""
    adapter = ModelAdapter(model)
    hidden = adapter.embed(sequence, 0)
    return adapter.run_layers(hidden, 0, adapter.num_layers, adapter.new_cache(sequence.shape[1]), 0)[0]


@pytest.mark.parametrize("num_rows", [1, 3])
@pytest.mark.parametrize("is_tree", [False, True])
def test_exits_read_the_newest_verified_state_and_its_distance(
    monkeypatch: pytest.MonkeyPatch, num_rows: int, is_tree: bool
) -> None:
    """At every read: the state is the full model's at the position before the newest committed token."""
    model = random_model("llama", 1, dtype=torch.float64)
    policy: Policy = RandomTrees(4, 3) if is_tree else StaticPolicy((2,), 0.0, 3)
    decoder = SpecBoundDecoder(model, policy, exits=random_exits(model, (1, 2, 3)))
    places = Places(monkeypatch)
    prompts = [random_prompt(row, 5 + row) for row in range(num_rows)]
    output = decoder.decode(prompts, max_new_tokens=24, pad_token_id=0)
    rows = [
        torch.cat((prompt, output.sequences[row : row + 1, max(len(p[0]) for p in prompts) :]), 1)
        for row, prompt in enumerate(prompts)
    ]
    true = torch.cat([last_states(model, row) for row in rows])
    seen = set()
    for place, hidden in places.found:
        assert place.state is not None and len(place.distances) == hidden.shape[1]
        for state in place.state[0]:
            assert (true - state).abs().amax(-1).min() < 1e-9  # one of the full model's states of these sequences
        seen |= set(place.distances)
    assert {1, 2} <= seen


def test_first_drafts_read_the_state_that_chose_the_committed_token(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("llama", 3, dtype=torch.float64)
    decoder = SpecBoundDecoder(model, StaticPolicy((2,), 0.0, 2), exits=random_exits(model, (2,)))
    places, prompt = Places(monkeypatch), random_prompt(3, 6)
    output = decoder.decode(prompt, max_new_tokens=20)
    true, committed = last_states(model, output.sequences), 7
    firsts = [place for place, _ in places.found if place.distances == [1]]
    for place, step in zip(firsts, output.stats.steps, strict=False):
        assert place.state is not None
        torch.testing.assert_close(place.state[0, 0], true[committed - 2])
        committed += step.num_emitted


def test_rows_of_a_twin_do_not_depend_on_each_other() -> None:
    """What a log records many rows at a time is what a draft reads alone."""
    model = random_model("llama", 0)
    exits = random_exits(model, (2,)).for_model(model)
    adapter = ModelAdapter(row_stable_model(model), exits)
    head = adapter.draft_head(None)
    assert isinstance(head, TrainedHead)
    hidden, state = torch.randn(2, 1, 7, 32).unbind()
    together = adapter.read_exit(hidden, head, ExitPlace(2, state, list(range(1, 8))))
    alone = [
        adapter.read_exit(hidden[:, i : i + 1], head, ExitPlace(2, state[:, i : i + 1], [i + 1])) for i in range(7)
    ]
    assert torch.equal(together, torch.cat(alone, 1))


def test_exits_without_a_module_are_read_raw_over_the_same_tokens() -> None:
    model = random_model("llama", 0)
    exits = random_exits(model, (2,), num_tokens=20)
    adapter = ModelAdapter(model, exits.for_model(model))
    head, hidden = adapter.draft_head(None), torch.randn(1, 1, 32)
    raw = adapter.read_exit(hidden, head, ExitPlace(1, None, [1]))
    assert torch.equal(raw, adapter.read_exit(hidden, adapter.draft_head(DraftVocabulary(exits.vocabulary.ids))))


def test_exits_of_another_model_are_refused() -> None:
    model, other = random_model("llama", 0), random_model("llama", 5)
    with pytest.raises(InputError, match=r"were trained for the model with fingerprint .* train exits for this model"):
        SpecBoundDecoder(other, exits=random_exits(model))
    with pytest.raises(InputError, match="a model of 4 layers, got one of 3"):
        SpecBoundDecoder(random_model("llama", 0, 3), exits=random_exits(model))


def test_drafts_asked_of_other_exits_are_refused() -> None:
    model = random_model("llama", 0)
    one, other = random_exits(model, seed=1), random_exits(model, seed=2)
    policy = DraftingFrom(one.vocabulary, StaticPolicy((2,), 0.0, 2))
    for exits in (other, None):
        with pytest.raises(InputError, match=f"exits must be the trained exits {one.name}"):
            SpecBoundDecoder(model, policy, exits=exits).generate(random_prompt(0, 4), max_new_tokens=8)
    SpecBoundDecoder(model, policy, exits=one).generate(random_prompt(0, 4), max_new_tokens=8)
