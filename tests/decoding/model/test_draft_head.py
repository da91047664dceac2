"""Draft vocabularies in the decoder: outputs stay those of plain decoding, drafts come from the vocabulary only."""

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.model.draft_head import DraftHead
from specbound.decoding.model.row_blocks import RowBlocks
from specbound.decoding.model.row_stable import row_stable_model
from specbound.decoding.signals import row_statistics
from specbound.decoding.step import Draft, StepRunner
from specbound.evaluation.verify import RandomPolicy
from specbound_controller.draft_vocabulary import DraftVocabulary
from specbound_controller.errors import InputError
from specbound_controller.policy import DraftingFrom, Policy, StaticPolicy
from specbound_controller.records import Decision
from tests.decoding.families import VARIANTS, random_model, random_prompt

SOME = DraftVocabulary(np.arange(1, 97, 4))
"""24 of 97 tokens."""
IDS = torch.tensor(SOME.ids)
MODES: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampled": {"do_sample": True, "temperature": 0.8, "top_k": 0, "seed": 3},
    "top-k beyond the vocabulary": {"do_sample": True, "top_k": 60, "seed": 3},
    "eta and epsilon": {"do_sample": True, "top_k": 0, "epsilon_cutoff": 0.01, "eta_cutoff": 0.02, "seed": 3},
    "typical-p": {"do_sample": True, "top_k": 0, "typical_p": 0.7, "seed": 3},
    "repetition penalty": {"do_sample": False, "repetition_penalty": 1.4},
    "bans of all drafts but one": {"do_sample": False, "suppress_tokens": SOME.ids[1:].tolist()},
}


def policies() -> list[Policy]:
    return [
        StaticPolicy((2,), 0.0, 4),
        StaticPolicy((1, 3), (0.05, 0.02), 5, combine="product"),
        StaticPolicy((1, 2, 3), 0.1, 6, alpha=0.5),
        RandomPolicy(4, seed=1),
    ]


class Watched(StepRunner):
    """Keeps the drafts of all steps."""

    drafts: ClassVar[list[Draft]]

    def run(self, draft: Draft) -> Tensor:
        Watched.drafts.append(draft)
        return super().run(draft)


@pytest.fixture
def drafts(monkeypatch: pytest.MonkeyPatch) -> list[Draft]:
    Watched.drafts = []
    monkeypatch.setattr("specbound.decoding.loop.StepRunner", Watched)
    return Watched.drafts


def tokens_of(drafts: list[Draft]) -> set[int]:
    """Drafted by an exit with a head."""
    return {t for draft in drafts for t, e in zip(draft.tokens[1:], draft.exit_layers, strict=True) if e > 0}


@pytest.mark.parametrize("mode", MODES)
def test_output_is_that_of_plain_decoding_and_drafts_are_of_the_vocabulary(mode: str, drafts: list[Draft]) -> None:
    model = random_model("llama", dtype=torch.float64)
    accepted = 0
    for seed in range(2):
        prompt, arguments = random_prompt(seed, 9), {"max_new_tokens": 24, **MODES[mode]}
        expected = SpecBoundDecoder(model).generate(prompt, **arguments)
        for policy in policies():
            output = SpecBoundDecoder(model, DraftingFrom(SOME, policy)).decode(prompt, **arguments)
            assert torch.equal(output.sequences, expected)
            accepted += output.stats.num_accepted
    drafted = tokens_of(drafts)
    assert drafted and drafted <= set(SOME.ids.tolist())
    assert accepted > 0 or mode.startswith("bans")


@pytest.mark.parametrize("name", VARIANTS)
def test_every_family_reads_the_rows_of_its_head(name: str, drafts: list[Draft]) -> None:
    model = random_model(name, dtype=torch.float64)
    prompt = random_prompt(1, 9)
    adapter = ModelAdapter(model)
    head = adapter.draft_head(SOME)
    hidden = torch.randn(1, 3, model.config.hidden_size, dtype=torch.float64)
    with torch.inference_mode():
        whole, read = adapter.read_head(hidden), adapter.read_exit(hidden, head)
    torch.testing.assert_close(read, whole[..., IDS])
    assert adapter.read_exit(hidden, None).shape == whole.shape
    expected = SpecBoundDecoder(model).generate(prompt, max_new_tokens=24, do_sample=False)
    decoder = SpecBoundDecoder(model, DraftingFrom(SOME, StaticPolicy((1, 3), 0.05, 4)))
    assert torch.equal(decoder.generate(prompt, max_new_tokens=24, do_sample=False), expected)


def test_all_tokens_as_a_draft_vocabulary_change_no_step() -> None:
    model, prompt = random_model("llama", dtype=torch.float64), random_prompt(2, 9)
    whole = DraftVocabulary(np.arange(97))
    for mode, arguments in MODES.items():
        for policy in policies()[1:3]:
            both = [
                SpecBoundDecoder(model, each).decode(prompt, max_new_tokens=16, **arguments)
                for each in (policy, DraftingFrom(whole, policy))
            ]
            assert torch.equal(both[0].sequences, both[1].sequences)
            for one, other in zip(both[0].stats.steps, both[1].stats.steps, strict=True):
                assert one.exit_layers == other.exit_layers and one.num_accepted == other.num_accepted, mode
                assert one.confidences == pytest.approx(other.confidences, nan_ok=True)


@pytest.mark.parametrize("mode", ["greedy", "sampled", "repetition penalty"])
def test_rows_of_a_batch_are_their_single_runs(mode: str) -> None:
    model = random_model("llama", dtype=torch.float64)
    prompts = [random_prompt(index, length)[0].tolist() for index, length in enumerate((9, 1, 30, 14))]
    arguments = {"max_new_tokens": 14, "pad_token_id": 0, **MODES[mode]}
    for policy in policies()[:2]:
        over = DraftingFrom(SOME, policy)
        batch = SpecBoundDecoder(model, over).decode(prompts, **arguments)
        for row, prompt in enumerate(prompts):
            own = {**arguments, "seed": 3 + row} if "seed" in arguments else arguments
            single = SpecBoundDecoder(model, over).decode([prompt], **own)
            plain = SpecBoundDecoder(model).generate([prompt], **own)
            assert torch.equal(single.sequences, plain)
            assert batch.sequences[row, -14:].tolist() == single.sequences[0, -14:].tolist()
            found = [(s.num_drafted, s.num_accepted, s.exit_layers) for s in batch.row_stats[row].steps]
            assert found == [(s.num_drafted, s.num_accepted, s.exit_layers) for s in single.stats.steps]


def test_rows_of_a_batch_may_read_different_vocabularies() -> None:
    class ByPlace(StaticPolicy):
        """Another vocabulary, or all tokens, by turns; rows begin at different turns."""

        turn = 0

        def decide(self, features: object) -> Decision:
            self.turn += 1
            policy = StaticPolicy((1, 3), 0.05, 4)
            kinds: list[Policy] = [
                policy,
                DraftingFrom(SOME, policy),
                DraftingFrom(DraftVocabulary(np.arange(2, 97, 3)), policy),
            ]
            return kinds[(self.turn + self.first) % 3].decide(None)

        first = 0

        def reset(self) -> None:
            ByPlace.starts += 1
            self.first = ByPlace.starts

        starts = 0

    model = random_model("llama", dtype=torch.float64)
    prompts = [random_prompt(index, 9)[0].tolist() for index in range(3)]
    arguments: dict[str, Any] = {"max_new_tokens": 24, "pad_token_id": 0, "do_sample": False}
    batch = SpecBoundDecoder(model, ByPlace(())).decode(prompts, **arguments)
    for row, prompt in enumerate(prompts):
        plain = SpecBoundDecoder(model).generate([prompt], **arguments)
        assert batch.sequences[row].tolist() == plain[0].tolist()
    assert batch.stats.num_accepted > 0


def test_signals_are_those_among_the_vocabulary(drafts: list[Draft]) -> None:
    model, prompt = random_model("llama", dtype=torch.float64), random_prompt(4, 9)
    SpecBoundDecoder(model, DraftingFrom(SOME, StaticPolicy((2,), 0.01, 4))).decode(prompt, max_new_tokens=20)
    adapter = ModelAdapter(model)
    signals = [(draft, index) for draft in drafts for index in range(draft.num_drafted)]
    assert len(signals) > 5
    for draft, index in signals:
        with torch.inference_mode():
            logits = adapter.read_head(draft.hidden[index])[0][:, IDS]
        if draft.depths[index] == 2:
            own, found = row_statistics(logits), draft.signals[index]
            assert found is not None and found.draft_token == SOME.ids[own.top_token]
            assert found.confidence == pytest.approx(own.confidence, abs=1e-5)
            assert found.margin == pytest.approx(own.margin, abs=1e-5)
            assert found.entropy_nats == pytest.approx(own.entropy_nats, abs=1e-5)


def test_places_and_full_rows_by_hand() -> None:
    linear = nn.Linear(3, 6, bias=True)
    head = DraftHead(linear, DraftVocabulary(np.array([1, 2, 5])), "it")
    x = torch.randn(1, 2, 3)
    torch.testing.assert_close(head(x), linear(x)[..., [1, 2, 5]])
    assert [head.token(index) for index in range(3)] == [1, 2, 5]
    places, has_place = head.places(torch.tensor([5, 0, 1, 3, 2]))
    assert has_place.tolist() == [True, False, True, False, True] and places[has_place].tolist() == [2, 0, 1]
    rows = head.full_rows(torch.tensor([[0.5, -1.0, 2.0]]))
    assert rows.tolist() == [[-torch.inf, 0.5, -1.0, -torch.inf, -torch.inf, 2.0]]


def test_row_stable_twin_reads_rows_alone_as_together() -> None:
    model = random_model("llama", dtype=torch.bfloat16)
    adapter = ModelAdapter(row_stable_model(model))
    head = adapter.draft_head(SOME)
    assert head is not None and isinstance(head._project, RowBlocks)
    hidden = torch.randn(1, 11, 32).to(torch.bfloat16)
    with torch.inference_mode():
        together = adapter.read_exit(hidden, head)
        alone = torch.cat([adapter.read_exit(row, head) for row in hidden.split(1, dim=1)], dim=1)
    assert torch.equal(together, alone)
    prompt = random_prompt(1, 9)
    arguments: dict[str, Any] = {"max_new_tokens": 30, "do_sample": False}
    plain = SpecBoundDecoder(model, exactness="bitwise").generate(prompt, **arguments)
    for policy in policies()[:3]:
        output = SpecBoundDecoder(model, DraftingFrom(SOME, policy), exactness="bitwise").generate(prompt, **arguments)
        assert torch.equal(output, plain)


def test_head_is_copied_once_and_again_after_the_model_has_changed() -> None:
    model = random_model("llama")
    adapter = ModelAdapter(model)
    head = adapter.draft_head(SOME)
    adapter.refresh()
    assert adapter.draft_head(DraftVocabulary(SOME.ids)) is head and adapter.draft_head(None) is None
    with torch.no_grad():
        model.lm_head.weight.mul_(2.0)
    adapter.refresh()
    changed = adapter.draft_head(SOME)
    assert changed is not head and changed is not None
    torch.testing.assert_close(changed.weight, model.lm_head.weight[IDS])
    model.lm_head.weight = nn.Parameter(torch.zeros_like(model.lm_head.weight))
    adapter.refresh()
    replaced = adapter.draft_head(SOME)
    assert replaced is not None and not replaced.weight.any()


class Wrapped(nn.Linear):
    """Stands for a quantised or adapted head."""


def hooked(model: PreTrainedModel) -> None:
    model.lm_head.register_forward_hook(lambda module, inputs, output: output * 2)


def wrapped(model: PreTrainedModel) -> None:
    model.lm_head.__class__ = Wrapped


def replaced(model: PreTrainedModel) -> None:
    model.lm_head.forward = lambda x: x @ model.lm_head.weight.T


@pytest.mark.parametrize("change", [hooked, wrapped, replaced])
def test_head_that_cannot_be_cut_down_is_refused_by_name(change: Any) -> None:
    model, prompt = random_model("llama"), random_prompt(0, 5)
    decoder = SpecBoundDecoder(model, DraftingFrom(SOME, StaticPolicy((2,), 0.0, 3)))
    decoder.generate(prompt, max_new_tokens=6)  # the head is copied
    change(model)
    with pytest.raises(InputError, match="draft_vocabulary must be left out for LlamaForCausalLM") as error:
        decoder.generate(prompt, max_new_tokens=6)
    assert "\n" not in str(error.value)
    decoder.policy = StaticPolicy((2,), 0.0, 3)
    decoder.generate(prompt, max_new_tokens=6)  # without a draft vocabulary it runs as ever


def test_vocabulary_of_a_larger_model_is_refused() -> None:
    decoder = SpecBoundDecoder(
        random_model("llama"), DraftingFrom(DraftVocabulary(np.array([3, 97])), StaticPolicy((2,)))
    )
    with pytest.raises(InputError, match=r"at least 98 tokens, got LlamaForCausalLM with 97"):
        decoder.generate(random_prompt(0, 5), max_new_tokens=6)
