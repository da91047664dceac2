"""Recording against transformers: tokens, exits and signals of random small models."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.greedy_twin import greedy_twin
from specbound.decoding.model.adapter import ModelAdapter
from specbound.models.loading import load_model
from specbound_controller.draft_vocabulary import DraftVocabulary
from specbound_controller.records import Decision, ExitSignals, StepRecord
from specbound_profiling.recording import exit_reader
from specbound_profiling.recording.columns import exit_columns
from specbound_profiling.recording.record import Recorder
from specbound_profiling.recording.rollout import RolloutSettings
from specbound_profiling.recording.settings import RecordSettings
from tests.profiling.recorded import prompt, record_continuation

EXITS = (1, 3)


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32).eval()


@pytest.mark.parametrize("block", [1, 3, 1000])
def test_trace_equals_a_plain_forward_pass(model: PreTrainedModel, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, ids = ModelAdapter(model), prompt(0)
    monkeypatch.setattr(exit_reader, "BLOCK_LOGITS", block * adapter.vocab_size * len(EXITS))
    trace = record_continuation(adapter, ids, EXITS, 12)
    expected = model.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=None)[0, ids.shape[1] :]
    assert trace.tokens.tolist() == expected[: trace.num_positions].tolist()
    whole = torch.cat((ids[0], torch.from_numpy(trace.tokens)))[None]
    with torch.no_grad():
        output = model(whole, output_hidden_states=True)
        rows = slice(ids.shape[1] - 1, whole.shape[1] - 1)
        for index, layer in enumerate(EXITS):
            logits = model.lm_head(model.model.norm(output.hidden_states[layer]))[0, rows]
            probabilities = logits.softmax(-1)
            assert trace.draft_token[:, index].tolist() == logits.argmax(-1).tolist()
            np.testing.assert_allclose(trace.confidence[:, index], probabilities.amax(-1), atol=1e-5)
            hot = (logits / 1.5).log_softmax(-1)
            at = trace.temperatures.index(1.5)
            np.testing.assert_allclose(trace.confidence_at[:, index, at], hot.amax(-1).exp(), atol=1e-5)
            labels = torch.from_numpy(trace.tokens)[:, None]
            np.testing.assert_allclose(trace.label_nll_at[:, index, at], -hot.gather(-1, labels)[:, 0], atol=1e-4)
            best = probabilities.topk(4)
            assert trace.candidates is not None and trace.candidate_chances is not None
            assert trace.candidates[:, index].tolist() == best.indices.tolist()
            np.testing.assert_allclose(trace.candidate_chances[:, index], best.values, atol=1e-5)
    full = output.logits[0, rows].softmax(-1)
    np.testing.assert_allclose(trace.full_confidence, full.amax(-1), atol=1e-5)
    np.testing.assert_allclose(trace.full_entropy_nats, -(full * full.log()).sum(-1), atol=1e-4)
    assert (trace.is_accepted == (trace.draft_token == trace.tokens[:, None])).all()
    assert trace.prompt_length == ids.shape[1] and not trace.is_final_eos
    assert trace.best_tokens is not None and trace.prompt_tokens is not None
    assert trace.best_tokens.tolist() == output.logits[0, rows].topk(8).indices.tolist()
    assert trace.prompt_tokens.tolist() == ids[0].tolist()


def test_exit_columns_by_hand() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    columns = exit_columns(logits, (1.0, 2.0), labels=torch.tensor([1, 2]))
    assert columns["draft_token"].tolist() == [0, 2] and columns["is_accepted"].tolist() == [False, True]
    np.testing.assert_allclose(columns["confidence"], [0.5, 0.8], rtol=1e-6)
    np.testing.assert_allclose(columns["margin"], np.log([2, 8]), rtol=1e-5)
    np.testing.assert_allclose(columns["entropy_nats"][0], 0.5 * np.log(2) + 0.5 * np.log(4), rtol=1e-6)
    roots = np.sqrt([0.5, 0.25, 0.25])
    np.testing.assert_allclose(columns["confidence_at"][0], [0.5, roots[0] / roots.sum()], rtol=1e-6)
    np.testing.assert_allclose(columns["label_nll_at"][0], -np.log([0.25, roots[1] / roots.sum()]), rtol=1e-6)


def test_end_of_sequence_ends_the_trace_and_is_its_last_token(model: PreTrainedModel) -> None:
    adapter, ids = ModelAdapter(model), prompt(1)
    tokens = record_continuation(adapter, ids, EXITS, 12).tokens
    end = int(tokens[3])
    trace = record_continuation(adapter, ids, EXITS, 12, (end,))
    first = tokens.tolist().index(end)
    assert trace.tokens.tolist() == tokens[: first + 1].tolist()
    assert trace.is_final_eos and trace.length_limit == 12 and trace.eos_tokens == {end}


def test_looping_continuation_is_cut_and_says_so(model: PreTrainedModel) -> None:
    adapter = ModelAdapter(model)
    traces = [record_continuation(adapter, prompt(seed), EXITS, 200) for seed in range(3)]
    cut = [trace for trace in traces if trace.is_loop_cut]
    assert cut, "a random greedy model loops within 200 tokens"
    assert all(trace.length_limit == trace.num_positions < 200 for trace in cut)


class Watching:
    """An annealed score that keeps the signals it is shown, with the position in the sequence that they are for."""

    def __init__(self) -> None:
        self.seen: list[ExitSignals] = []

    is_learned = False

    def temperature(self, exit_layer: int, num_layers: int) -> float:
        return 1.3

    def __call__(self, signals: ExitSignals, features: np.ndarray | None) -> float:
        self.seen.append(signals)
        return 1.0


class DraftingAt:
    """Drafts three tokens at one exit, each of them tested."""

    needs_features = needs_full_signals = False

    def __init__(self, exit_layer: int, draft_vocabulary: DraftVocabulary | None) -> None:
        self.score = Watching()
        self.decision = Decision(3, {exit_layer: 0.5}, self.score, draft_vocabulary=draft_vocabulary)

    def reset(self) -> None: ...

    def decide(self, features: np.ndarray | None) -> Decision:
        return self.decision

    def observe(self, record: StepRecord) -> None: ...


SAMPLINGS = {
    "greedy": {"do_sample": False},
    "temperature": {"do_sample": True, "temperature": 0.7, "top_k": 0, "top_p": 1.0, "seed": 5},
    "nucleus": {"do_sample": True, "temperature": 1.2, "top_k": 20, "top_p": 0.8, "seed": 5},
}
SOME = DraftVocabulary(np.arange(0, 64, 2))
LEVELS = [(level, name, None) for level in (("none", "token"), ("bf16", "bitwise")) for name in SAMPLINGS]
LEVELS += [(("none", "bitwise"), "temperature", None), (("fp16", "bitwise"), "greedy", None)]
LEVELS += [(("int8", "bitwise"), "nucleus", None), (("nf4", "bitwise"), "temperature", None)]
LEVELS += [
    (("none", "token"), "greedy", SOME),
    (("none", "token"), "nucleus", SOME),
    (("bf16", "bitwise"), "greedy", SOME),
]
LEVELS += [(("int8", "bitwise"), "temperature", SOME)]


@pytest.mark.parametrize(
    ("level", "sampling", "vocabulary"),
    LEVELS,
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "all" if value is None else str(value),
)
def test_tokens_and_signals_are_those_of_live_decoding(
    sharp_model_dir: Path, level: tuple[str, str], sampling: str, vocabulary: DraftVocabulary | None
) -> None:
    compression, exactness = level
    loaded = load_model(str(sharp_model_dir), compression)
    twin, eos = greedy_twin(loaded.model, has_end=False), ()
    settings = RecordSettings(EXITS, 20, eos, sampling=SAMPLINGS[sampling], rollouts=RolloutSettings(1.0, 4))
    settings = replace(settings, draft_vocabulary=vocabulary)
    recorder = Recorder(ModelAdapter(loaded.model), settings, exactness)
    num_wrong = 0
    for index in range(2):
        ids = prompt(index)
        trace = recorder.record(ids, index)
        arguments = {**SAMPLINGS[sampling], "max_new_tokens": trace.length_limit}
        arguments |= {"seed": 5 + index} if sampling != "greedy" else {}
        assert trace.seed == arguments.get("seed")
        policy = DraftingAt(EXITS[index], vocabulary)
        output = SpecBoundDecoder(twin, policy, compression, exactness=exactness).decode(ids, **arguments)
        assert output.sequences[0, ids.shape[1] :].tolist() == trace.tokens.tolist()
        seen = iter(policy.score.seen)
        for step in output.stats.steps:
            start = step.context_length - ids.shape[1]
            for draft_index in range(step.num_drafted):
                recorded = trace.signals(start + draft_index, index, draft_index, 1.3)
                if draft_index > step.num_accepted:  # after the wrong draft: what the branch says
                    assert trace.branches is not None
                    first = trace.branches.rows[start + step.num_accepted, EXITS[index]].start
                    row = first + draft_index - step.num_accepted - 1
                    recorded = trace.branch_signals(row, index, draft_index, 1.3)
                    num_wrong += 1
                live = next(seen)
                assert (live.draft_token, live.draft_index) == (recorded.draft_token, recorded.draft_index)
                for name in (f.name for f in fields(ExitSignals)):
                    # the token level reads several rows at once, live one: rounding; bitwise: the statistics' own
                    wanted = pytest.approx(getattr(recorded, name), rel=2e-4, abs=1e-5)
                    assert getattr(live, name) == wanted, name
    assert num_wrong > 0


@pytest.mark.parametrize("sampling", ["greedy", "nucleus"])
def test_exits_of_a_draft_vocabulary_say_what_holds_among_its_tokens(
    model: PreTrainedModel, sampling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, ids = ModelAdapter(model), prompt(0)
    monkeypatch.setattr(exit_reader, "BLOCK_LOGITS", 3 * len(SOME) * len(EXITS))
    settings = RecordSettings(EXITS, 30, (), sampling=SAMPLINGS[sampling], draft_vocabulary=SOME)
    trace = Recorder(adapter, settings).record(ids)
    whole = Recorder(adapter, replace(settings, draft_vocabulary=None)).record(ids)
    assert trace.tokens.tolist() == whole.tokens.tolist()  # the full model's head is read whole
    is_inside = np.isin(trace.tokens, SOME.ids)
    assert is_inside.any() and not is_inside.all()
    assert trace.top1_token is not None and np.isin(trace.top1_token, SOME.ids).all()
    assert np.isin(trace.draft_token, SOME.ids).all()
    assert (trace.is_accepted == (trace.draft_token == trace.tokens[:, None])).all()
    assert not trace.is_accepted[~is_inside].any()
    assert np.isnan(trace.label_nll_at[~is_inside]).all()
    text = torch.cat((ids[0], torch.from_numpy(trace.tokens)))[None]
    with torch.no_grad():
        output = model(text, output_hidden_states=True)
        rows = slice(ids.shape[1] - 1, text.shape[1] - 1)
        for index, layer in enumerate(EXITS):
            logits = model.lm_head(model.model.norm(output.hidden_states[layer]))[0, rows][:, torch.tensor(SOME.ids)]
            assert trace.top1_token[:, index].tolist() == SOME.ids[logits.argmax(-1).numpy()].tolist()
            np.testing.assert_allclose(trace.confidence[:, index], logits.softmax(-1).amax(-1), atol=1e-5)
            cold = (logits / 2.0).log_softmax(-1)
            places = torch.from_numpy(np.searchsorted(SOME.ids, trace.tokens[is_inside]))[:, None]
            found = trace.label_nll_at[is_inside, index, trace.temperatures.index(2.0)]
            np.testing.assert_allclose(found, -cold[torch.from_numpy(is_inside)].gather(-1, places)[:, 0], atol=1e-4)


def test_all_tokens_as_a_draft_vocabulary_record_the_same(model: PreTrainedModel) -> None:
    settings = RecordSettings(EXITS, 20, (), sampling=SAMPLINGS["nucleus"], rollouts=RolloutSettings(1.0, 4))
    traces = [
        Recorder(ModelAdapter(model), replace(settings, draft_vocabulary=vocabulary)).record(prompt(1))
        for vocabulary in (None, DraftVocabulary(np.arange(model.config.vocab_size)))
    ]
    assert traces[0].branches is not None and traces[1].branches is not None
    for one, other in ((traces[0], traces[1]), (traces[0].branches, traces[1].branches)):
        for name in (f.name for f in fields(one)):
            values = getattr(one, name), getattr(other, name)
            if isinstance(values[0], np.ndarray):
                np.testing.assert_allclose(values[0], values[1], atol=1e-5)


def test_top1_token_is_the_exits_own_and_the_draft_token_is_moved_by_the_noise(model: PreTrainedModel) -> None:
    settings = RecordSettings(EXITS, 40, (), sampling=SAMPLINGS["nucleus"])
    trace = Recorder(ModelAdapter(model), settings).record(prompt(0))
    greedy = Recorder(ModelAdapter(model), RecordSettings(EXITS, 40, ())).record(prompt(0))
    assert trace.top1_token is not None and (trace.top1_token != trace.draft_token).mean() > 0.2
    assert greedy.top1_token is not None and (greedy.top1_token == greedy.draft_token).all()
    np.testing.assert_array_equal(greedy.noised_margin, greedy.margin)
    is_moved = trace.top1_token != trace.draft_token
    assert (trace.draft_probability[is_moved] < 0.5).all() and (trace.noised_margin >= 0).all()
    assert (trace.is_accepted == (trace.draft_token == trace.tokens[:, None])).all()
