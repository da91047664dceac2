"""Roll-outs: what the exits say after a wrong draft, read off the same model anew; the trace itself stays as it is."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from specbound.decoding.model.adapter import ModelAdapter
from specbound_controller.costs import WORK_NAMES, CostTable
from specbound_controller.policy import AnnealedConfidence
from specbound_controller.records import Decision
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.recording.record import Recorder
from specbound_profiling.recording.rollout import RolloutSettings
from specbound_profiling.recording.settings import RecordSettings
from specbound_profiling.replay.replay import replay_static
from tests.profiling.recorded import prompt

EXITS, WIDTH = (1, 3), 5
SAMPLED = {"do_sample": True, "temperature": 0.9, "top_k": 0, "top_p": 1.0, "seed": 11}
SETTINGS = RecordSettings(EXITS, 24, (), rollouts=RolloutSettings(1.0, WIDTH))


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32).eval()


def trace_of(model: PreTrainedModel, settings: RecordSettings, exactness: str = "token", index: int = 0) -> PromptTrace:
    return Recorder(ModelAdapter(model), settings, exactness).record(prompt(index), index)


@pytest.mark.parametrize("exactness", ["token", "bitwise"])
@pytest.mark.parametrize("sampling", [{"do_sample": False}, SAMPLED])
def test_following_wrong_drafts_leaves_the_trace_as_it_is(
    model: PreTrainedModel, exactness: str, sampling: dict[str, object]
) -> None:
    settings = replace(SETTINGS, sampling=sampling)
    with_branches = trace_of(model, settings, exactness)
    without = trace_of(model, replace(settings, rollouts=None), exactness)
    assert with_branches.branches is not None and without.branches is None
    assert with_branches.tokens.tolist() == without.tokens.tolist()
    for name in (f.name for f in fields(PromptTrace) if isinstance(getattr(without, f.name), np.ndarray)):
        # blocks end at followed drafts, so at the token level heads are read in products of other sizes
        np.testing.assert_allclose(getattr(with_branches, name), getattr(without, name), rtol=1e-4, atol=1e-4)


def test_every_wrong_draft_is_followed_up_to_the_width_and_the_last_token_that_a_draft_can_be(
    model: PreTrainedModel,
) -> None:
    trace = trace_of(model, SETTINGS)
    assert trace.branches is not None
    followed = {key: len(rows) for key, rows in trace.branches.rows.items()}
    expected = {}
    for position, index in np.argwhere(~trace.is_accepted):
        length = min(WIDTH - 1, trace.token_limit - 2 - position)
        if position > 0 and length > 0:
            expected[int(position), EXITS[index]] = length
    assert followed == expected and len(followed) > 5


def test_branch_says_what_a_forward_pass_says_after_the_wrong_draft(model: PreTrainedModel) -> None:
    trace = trace_of(model, SETTINGS)
    branches = trace.branches
    assert branches is not None
    for (position, exit_layer), rows in list(branches.rows.items())[::3]:
        along = trace.exit_index(exit_layer)
        tokens = prompt(0)[0].tolist() + trace.tokens[:position].tolist() + [int(trace.draft_token[position, along])]
        tokens += branches.draft_token[rows.start : rows.stop - 1, along].tolist()
        with torch.no_grad():
            states = model(torch.tensor([tokens]), output_hidden_states=True).hidden_states
        for index, layer in enumerate(EXITS):
            logits = model.lm_head(model.model.norm(states[layer]))[0, -len(rows) :]
            at = slice(rows.start, rows.stop)
            assert branches.draft_token[at, index].tolist() == logits.argmax(-1).tolist()
            np.testing.assert_allclose(branches.confidence[at, index], logits.softmax(-1).amax(-1).detach(), atol=1e-5)
        assert branches.position[rows.start : rows.stop].tolist() == list(range(position + 1, position + 1 + len(rows)))


def test_branch_ends_where_its_exit_drafts_an_end_token(model: PreTrainedModel) -> None:
    whole = trace_of(model, SETTINGS)
    assert whole.branches is not None
    drafted = [token for token in whole.branches.draft_token[:, 0].tolist() if token not in whole.tokens]
    end = max(set(drafted), key=drafted.count)
    trace = trace_of(model, replace(SETTINGS, eos_token_ids=(end,)))
    assert trace.branches is not None and trace.tokens.tolist() == whole.tokens.tolist()
    num_cut = 0
    for key, rows in whole.branches.rows.items():
        along = whole.exit_index(key[1])
        if whole.draft_token[key[0], along] == end:
            assert key not in trace.branches.rows
            continue
        tokens = whole.branches.draft_token[rows.start : rows.stop, along].tolist()
        expected = tokens.index(end) + 1 if end in tokens else len(tokens)
        num_cut += expected < len(tokens)
        assert len(trace.branches.rows[key]) == expected
    assert num_cut > 0


def test_followed_drafts_depend_on_nothing_but_seed_prompt_position_and_exit(model: PreTrainedModel) -> None:
    few = RolloutSettings(0.3, WIDTH, seed=4)
    drawn = [few.is_drawn(i, p, e) for i in range(20) for p in range(50) for e in EXITS]
    assert 0.26 < np.mean(drawn) < 0.34
    other = replace(few, seed=5)
    assert (
        np.mean([other.is_drawn(i, p, e) for i in range(20) for p in range(50) for e in EXITS] == np.array(drawn)) < 0.7
    )
    whole, part = trace_of(model, SETTINGS, index=3), trace_of(model, replace(SETTINGS, rollouts=few), index=3)
    assert whole.branches is not None and part.branches is not None
    assert set(part.branches.rows) == {key for key in whole.branches.rows if few.is_drawn(3, *key)}
    for key, rows in part.branches.rows.items():
        there = whole.branches.rows[key]
        for name in ("draft_token", "top1_token", "noised_margin", "confidence_at"):
            one, all_ = getattr(part.branches, name), getattr(whole.branches, name)
            np.testing.assert_allclose(one[rows.start : rows.stop], all_[there.start : there.stop], rtol=1e-5)


def test_no_branch_leaves_the_part_of_a_loop_that_is_cut(model: PreTrainedModel) -> None:
    settings = replace(SETTINGS, max_new_tokens=200)
    traces = [trace_of(model, settings, index=index) for index in range(3)]
    cut = [trace for trace in traces if trace.is_loop_cut and trace.branches is not None]
    assert cut, "a random greedy model loops within 200 tokens"
    assert all(trace.branches.branch_position.max() < trace.num_positions for trace in cut if trace.branches)


@pytest.mark.parametrize("eos", [(), (9, 13, 21)])
def test_what_the_context_says_after_a_wrong_lookup_needs_no_roll_out(
    model: PreTrainedModel, eos: tuple[int, ...]
) -> None:
    """Without any roll-outs its branches are there, equal to those of a log with all of them."""
    settings = replace(SETTINGS, exit_layers=(0, *EXITS), max_new_tokens=40, eos_token_ids=eos)
    drawn = trace_of(model, settings)
    bare = trace_of(model, replace(settings, rollouts=RolloutSettings(0.0, WIDTH)))
    assert drawn.branches is not None and bare.branches is not None
    own = {key: rows for key, rows in drawn.branches.rows.items() if key[1] == 0}
    assert len(own) > 3 and set(bare.branches.rows) == set(own)
    assert bare.branches.is_lookup_only.all() and not drawn.branches.is_lookup_only.any()
    for other in (bare.branches, drawn.without_rollouts().branches):
        assert other is not None
        for key, rows in own.items():
            for name in ("draft_token", "confidence", "entropy_nats", "margin", "noised_margin", "draft_probability"):
                wanted = getattr(drawn.branches, name)[rows.start : rows.stop, 0]
                found = getattr(other, name)[other.rows[key].start : other.rows[key].stop]
                np.testing.assert_array_equal(found[:, 0], wanted, err_msg=name)
                assert (found[:, 1:] == -1).all() or np.isnan(found[:, 1:]).all()


def test_lookups_are_replayed_exactly_without_roll_outs(model: PreTrainedModel) -> None:
    settings = replace(SETTINGS, exit_layers=(0, *EXITS), max_new_tokens=40)
    traces = [
        trace_of(model, replace(settings, rollouts=RolloutSettings(rate, WIDTH)), index=index)
        for index in range(3)
        for rate in (0.0, 1.0)
    ]
    costs = CostTable(dict.fromkeys(WORK_NAMES, 1.0), "none", "test machine", 0.0, 300)
    num_estimated = 0
    for thresholds in ({0: 0.3}, {0: 0.4, 3: 0.01}):
        decision = Decision(WIDTH, thresholds, AnnealedConfidence(0.0), "product")
        bare, drawn = (
            replay_static(traces[first::2], decision, costs, model.config.num_hidden_layers) for first in (0, 1)
        )
        assert drawn.estimates is not None and bare.estimates is not None
        if 3 not in thresholds:
            np.testing.assert_array_equal(bare.work, drawn.work)
            assert bare.estimates.num_steps.sum() == drawn.estimates.num_steps.sum() == 0
        num_estimated += int(bare.estimates.num_steps.sum())
    assert num_estimated > 0  # an exit that is read after a wrong lookup is not known
