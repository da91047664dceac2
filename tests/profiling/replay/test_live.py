"""Live decoding against replay, step by step: what a log says a policy would do is what the decoder does.

Whole steps where every wrong draft was rolled out; without roll-outs drafts go on for their full width here (no token
ends them), because after a wrong draft a replay can only estimate whether the next one would have been such a token.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.greedy_twin import greedy_twin
from specbound.decoding.model.adapter import ModelAdapter
from specbound.models.loading import LoadedModel, load_model
from specbound_controller.costs import CostTable
from specbound_controller.features import FEATURE_NAMES
from specbound_controller.policy import AnnealedConfidence, StaticPolicy
from specbound_controller.records import Decision, StepRecord
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.recording.record import Recorder
from specbound_profiling.recording.rollout import RolloutSettings
from specbound_profiling.recording.settings import RecordSettings
from specbound_profiling.replay.replay import replay, replay_static
from specbound_profiling.replay.simulate import simulate
from tests.profiling.recorded import record_continuation
from tests.step_fields import EXACT_FIELDS

EXITS, NUM_LAYERS = (0, 1, 2, 3), 4


@pytest.fixture(scope="module")
def loaded(tiny_model_dir: Path) -> LoadedModel:
    return load_model(str(tiny_model_dir))


@pytest.fixture(scope="module")
def prompts() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(2, 60, (1, length), generator=generator) for length in (1, 4, 9, 13)]


@pytest.fixture(scope="module")
def traces(loaded: LoadedModel, prompts: list[torch.Tensor]) -> list[PromptTrace]:
    adapter = ModelAdapter(loaded.model)
    return [record_continuation(adapter, ids, EXITS, 30) for ids in prompts]


Live = Callable[[StaticPolicy], list[list[StepRecord]]]


@pytest.fixture(scope="module")
def live(loaded: LoadedModel, prompts: list[torch.Tensor], traces: list[PromptTrace]) -> Live:
    def decode(policy: StaticPolicy) -> list[list[StepRecord]]:
        decoder, all_steps = SpecBoundDecoder(greedy_twin(loaded.model, has_end=False), policy), []
        for ids, trace in zip(prompts, traces, strict=True):
            output = decoder.decode(ids, max_new_tokens=trace.length_limit)
            assert output.sequences[0, ids.shape[1] :].tolist() == trace.tokens.tolist()
            all_steps.append(output.stats.steps)
        return all_steps

    return decode


def assert_same_work(live_step: StepRecord, replayed: StepRecord) -> None:
    for name in EXACT_FIELDS:
        assert getattr(live_step, name) == getattr(replayed, name), name


def test_traces_hold_right_and_wrong_drafts(traces: list[PromptTrace]) -> None:
    agreement = np.concatenate([t.is_accepted for t in traces]).mean(axis=0)
    assert all(0.1 < share < 0.99 for share in agreement), agreement


@pytest.mark.parametrize("exit_layer", [1, 3])
@pytest.mark.parametrize("width", [0, 1, 3, 6])
def test_fixed_drafts_do_live_what_replay_says(
    live: Live, traces: list[PromptTrace], costs: CostTable, exit_layer: int, width: int
) -> None:
    policy = StaticPolicy((exit_layer,), threshold=0.0, w_max=width)
    replayed = replay(traces, policy, costs, NUM_LAYERS, "none", keep_records=True)
    fast = replay_static(traces, policy.decide(None), costs, NUM_LAYERS)
    assert replayed.records is not None
    for index, (steps, records) in enumerate(zip(live(policy), replayed.records, strict=True)):
        assert len(steps) == len(records) == fast.num_steps[index]
        for step, record in zip(steps, records, strict=True):
            assert_same_work(step, record)
        assert sum(s.num_emitted for s in steps) == fast.num_tokens[index]
        assert sum(s.num_accepted for s in steps) == fast.num_accepted[index]
        assert sum(s.num_layer_calls for s in steps) == fast.num_layer_calls[index]


def threshold_between_scores(scores: np.ndarray) -> float:
    """The middle of the widest gap among the middle half of the scores."""
    scores = np.sort(scores)
    middle = scores[len(scores) // 4 : -len(scores) // 4]
    gap = int(np.argmax(np.diff(middle)))
    return float(middle[gap : gap + 2].mean())


@pytest.mark.parametrize("exit_layer", [1, 3])
@pytest.mark.parametrize("alpha", [0.0, 0.8])
def test_thresholds_between_scores_do_live_what_replay_says_up_to_the_first_wrong_draft(
    live: Live, traces: list[PromptTrace], costs: CostTable, exit_layer: int, alpha: float
) -> None:
    temperature = AnnealedConfidence(alpha).temperature(exit_layer, NUM_LAYERS)
    at = [trace.signals(p, exit_layer, 0, temperature) for trace in traces for p in range(trace.num_positions)]
    threshold = threshold_between_scores(np.array([signals.annealed_confidence for signals in at]))
    policy = StaticPolicy((exit_layer,), threshold, w_max=4, alpha=alpha)
    replayed = replay(traces, policy, costs, NUM_LAYERS, "none", keep_records=True)
    assert replayed.records is not None
    num_exact = num_tested = 0
    for steps, records in zip(live(policy), replayed.records, strict=True):
        assert [s.num_accepted for s in steps] == [r.num_accepted for r in records]
        for step, record in zip(steps, records, strict=True):
            num_tested += step.stop_reason != "off"
            if step.num_accepted == step.num_drafted:  # no wrong draft, so nothing was estimated
                assert_same_work(step, record)
                np.testing.assert_allclose(step.scores, record.scores, atol=2e-4)
                np.testing.assert_allclose(step.confidences, record.confidences, atol=1e-5)
                num_exact += step.num_drafted > 0 or step.stop_reason == "depth"
    assert num_exact >= 5 and num_tested > num_exact


def test_several_exits_accept_live_what_replay_says(live: Live, traces: list[PromptTrace], costs: CostTable) -> None:
    confidence = np.concatenate([t.confidence for t in traces])
    thresholds = [0.7, threshold_between_scores(confidence[:, 1]), threshold_between_scores(confidence[:, 2]), 0.0]
    policy = StaticPolicy(EXITS, thresholds, w_max=5)
    replayed = replay(traces, policy, costs, NUM_LAYERS, "none", keep_records=True)
    assert replayed.records is not None
    exits_seen = set()
    for steps, records in zip(live(policy), replayed.records, strict=True):
        assert [s.num_emitted for s in steps] == [r.num_emitted for r in records]
        for step, record in zip(steps, records, strict=True):
            if step.num_accepted == step.num_drafted:
                assert_same_work(step, record)
                exits_seen |= set(step.exit_layers)
    assert len(exits_seen) >= 2


class Watching(StaticPolicy):
    """Keeps the features that it is shown."""

    needs_features = True
    needs_full_signals = True

    def __init__(self) -> None:
        super().__init__((2,), threshold=0.0, w_max=3)
        self.seen: list[np.ndarray] = []

    def decide(self, features: np.ndarray | None) -> Decision:
        assert features is not None
        self.seen.append(features.copy())
        return super().decide(features)


def test_policy_is_shown_the_same_features_live_and_in_replay(
    live: Live, traces: list[PromptTrace], costs: CostTable
) -> None:
    in_decoding, in_replay = Watching(), Watching()
    live(in_decoding)
    replay(traces, in_replay, costs, NUM_LAYERS, "none")
    assert len(in_decoding.seen) == len(in_replay.seen) > 20
    np.testing.assert_allclose(in_decoding.seen, in_replay.seen, atol=1e-4)


def test_policy_is_told_the_sampling_temperature_live_and_in_replay(run: "Run", costs: CostTable) -> None:
    in_decoding, in_replay = Watching(), Watching()
    run.steps(in_decoding)
    replay(run.traces, in_replay, costs, NUM_LAYERS, run.loaded.compression)
    temperature = FEATURE_NAMES.index("sampling_temperature")
    for policy in (in_decoding, in_replay):
        expected = run.sampling.get("temperature", 0.0)
        np.testing.assert_allclose(np.array(policy.seen)[:, temperature], expected, rtol=1e-6)
    np.testing.assert_allclose(in_decoding.seen, in_replay.seen, atol=1e-4)


def test_end_token_inside_a_draft_ends_live_and_replayed_steps_alike(
    loaded: LoadedModel, prompts: list[torch.Tensor], traces: list[PromptTrace], costs: CostTable
) -> None:
    adapter, num_inside = ModelAdapter(loaded.model), 0
    for ids, whole in zip(prompts, traces, strict=True):
        end = int(whole.tokens[-1])
        trace = record_continuation(adapter, ids, EXITS, 30, (end,))
        policy = StaticPolicy((3,), threshold=0.0, w_max=4)
        output = SpecBoundDecoder(loaded.model, policy).decode(ids, max_new_tokens=30, eos_token_id=end)
        assert output.sequences[0, ids.shape[1] :].tolist() == trace.tokens.tolist()
        records = replay([trace], policy, costs, NUM_LAYERS, "none", keep_records=True).records
        assert records is not None
        assert [s.num_emitted for s in output.stats.steps] == [r.num_emitted for r in records[0]]
        for step, record in zip(output.stats.steps, records[0], strict=True):
            if step.num_accepted == step.num_drafted:
                assert_same_work(step, record)
                num_inside += step.stop_reason == "eos"
    assert num_inside > 0


SAMPLED = {"do_sample": True, "temperature": 0.9, "top_k": 0, "top_p": 1.0, "seed": 3}
RUNS = {
    "greedy": ("none", "token", {"do_sample": False}),
    "sampled": ("none", "token", SAMPLED),
    "nucleus": ("none", "token", {**SAMPLED, "top_k": 12, "top_p": 0.9}),
    "greedy-bf16": ("bf16", "bitwise", {"do_sample": False}),
    "sampled-bf16": ("bf16", "bitwise", SAMPLED),
}


class Run:
    """A model, an exact log of it, and a live decoder that decodes as the log was recorded."""

    def __init__(self, folder: Path, name: str) -> None:
        compression, exactness, sampling = RUNS[name]
        self.loaded = load_model(str(folder), compression)
        self.sampling = sampling
        self.decoder = SpecBoundDecoder(self.loaded.model, None, compression, exactness=exactness)
        generator = torch.Generator().manual_seed(1)
        self.prompts = [torch.randint(2, 60, (1, length), generator=generator) for length in (2, 5, 8)]
        adapter = ModelAdapter(self.loaded.model)
        settings = RecordSettings(EXITS, 30, (), sampling=sampling)
        recorder = Recorder(adapter, settings, exactness)
        drafts = [recorder.record(ids, index) for index, ids in enumerate(self.prompts)]
        wrong = np.bincount(np.concatenate([t.draft_token[:, 1:][~t.is_accepted[:, 1:]] for t in drafts]), minlength=64)
        right = np.bincount(np.concatenate([t.tokens for t in drafts]), minlength=64)
        # end tokens that exits often draft wrongly while few continuations end with them
        self.eos = tuple(np.argsort(wrong - 20 * right)[-2:].tolist())
        recorder.settings = replace(settings, eos_token_ids=self.eos, rollouts=RolloutSettings(1.0, 6))
        self.traces = [recorder.record(ids, index) for index, ids in enumerate(self.prompts)]

    def steps(self, policy: StaticPolicy) -> list[list[StepRecord]]:
        """The steps of live decoding."""
        self.decoder.policy, all_steps = policy, []
        for index, (ids, trace) in enumerate(zip(self.prompts, self.traces, strict=True)):
            arguments = dict(self.sampling)
            if "seed" in arguments:
                arguments["seed"] += index
            arguments |= {"max_new_tokens": trace.length_limit, "eos_token_id": list(self.eos)}
            output = self.decoder.decode(ids, **arguments)
            assert output.sequences[0, ids.shape[1] :].tolist() == trace.tokens.tolist()
            all_steps.append(output.stats.steps)
        return all_steps


@pytest.fixture(scope="module", params=list(RUNS))
def run(request: pytest.FixtureRequest, sharp_model_dir: Path) -> Run:
    return Run(sharp_model_dir, request.param)


@pytest.mark.parametrize(
    ("exit_layer", "combine"), [(0, "token"), (0, "product"), (1, "token"), (2, "product"), (3, "token")]
)
def test_exact_log_says_what_whole_steps_with_one_exit_layer_do_live(
    run: Run, costs: CostTable, exit_layer: int, combine: str
) -> None:
    confidence = np.concatenate([t.confidence[:, exit_layer] for t in run.traces])
    # a lookup's confidence is 1/2, 2/3, 3/4, ... by the length of the match
    for threshold in (0.45, 0.55) if exit_layer == 0 else (0.0, threshold_between_scores(confidence)):
        policy = StaticPolicy((exit_layer,), threshold, w_max=6, combine=combine)
        live_steps, num_wrong = run.steps(policy), 0
        for trace, steps in zip(run.traces, live_steps, strict=True):
            start = 1
            for step in steps:
                simulated = simulate(trace, start, policy.decide(None), None, NUM_LAYERS)
                assert simulated.is_exact
                assert_same_work(step, simulated.record)
                np.testing.assert_allclose(step.scores, simulated.record.scores, atol=2e-4)
                num_wrong += step.num_drafted > step.num_accepted + 1
                start += step.num_emitted
        fast = replay_static(run.traces, policy.decide(None), costs, NUM_LAYERS)
        assert [sum(s.num_layer_calls for s in steps) for steps in live_steps] == fast.num_layer_calls.tolist()
        assert [sum(s.num_drafted for s in steps) for steps in live_steps] == fast.num_drafted.tolist()
        goes_on = threshold == 0.0 or (threshold == 0.45 and combine == "token")  # whatever an exit says
        assert num_wrong >= 3 or not goes_on


def test_steps_with_several_exits_are_exact_where_replay_says_so(run: Run) -> None:
    confidence = np.concatenate([t.confidence for t in run.traces])
    thresholds = [0.7, threshold_between_scores(confidence[:, 1]), threshold_between_scores(confidence[:, 2]), 0.0]
    policy = StaticPolicy(EXITS, thresholds, w_max=6)
    num_exact = num_steps = 0
    for trace, steps in zip(run.traces, run.steps(policy), strict=True):
        start = 1
        for step in steps:
            simulated = simulate(trace, start, policy.decide(None), None, NUM_LAYERS)
            assert step.num_accepted == simulated.record.num_accepted
            if simulated.is_exact:
                assert_same_work(step, simulated.record)
            else:  # drafts that are known are a beginning of those that were issued
                assert step.exit_layers[: simulated.known.num_drafted] == simulated.known.exit_layers
            num_exact += simulated.is_exact and step.num_drafted > step.num_accepted
            num_steps += 1
            start += step.num_emitted
    assert num_exact > 0 and num_steps > 10
