"""The baselines' policies: all prompts at once against step by step, and replayed against live."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.greedy_twin import greedy_twin
from specbound.decoding.model.adapter import ModelAdapter
from specbound.models.loading import load_model
from specbound_controller.actions import PLAIN, Action
from specbound_controller.baselines.draft_verify import DraftVerifySettings
from specbound_controller.baselines.fixed import LayerSkipSettings, StaticSettings
from specbound_controller.baselines.lengths import GammaTuneSettings, HeuristicSettings
from specbound_controller.baselines.logistic import LogisticSettings
from specbound_controller.baselines.situation import Settings, Situation
from specbound_controller.baselines.speckv import SpecKVSettings
from specbound_controller.baselines.svip import SvipSettings
from specbound_controller.baselines.ucb import UcbSettings
from specbound_controller.costs import CostTable
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.recording.record import Recorder
from specbound_profiling.recording.rollout import RolloutSettings
from specbound_profiling.recording.settings import RecordSettings
from specbound_profiling.replay.replay import replay, replay_static, replay_stepwise
from tests.step_fields import EXACT_FIELDS

TraceOf = Callable[..., PromptTrace]
EXITS, NUM_LAYERS = (1, 3, 4), 6
RANDOM = np.random.default_rng(0)
WEIGHTS = tuple(tuple(row) for row in RANDOM.normal(scale=0.5, size=(5, 6)).tolist())
SETTINGS: dict[str, Settings] = {
    "best_static": StaticSettings(Action(3, 4, 0.4, "annealed", "product"), 0.5),
    "layerskip": LayerSkipSettings(3, 3),
    "draft_verify": DraftVerifySettings(3, 5, start=0.3, target=0.6, step=0.5),
    "svip": SvipSettings(1, 5, root_entropy=0.7),
    "gammatune": GammaTuneSettings(3, 2, 6, 0.5, 1.5),
    "hf_heuristic": HeuristicSettings(3, 3, 6),
    "logistic": LogisticSettings(3, WEIGHTS, 0.6, 20),
    "speckv": SpecKVSettings(
        3,
        (1, 2, 4, 6),
        tuple(tuple(row) for row in RANDOM.normal(scale=0.5, size=(6, 11)).tolist()),
        (0.1,) * 6,
        (tuple(RANDOM.normal(size=6).tolist()),),
        (0.2,),
    ),
    "ucb": UcbSettings((PLAIN, Action(1, 2), Action(3, 4), Action(3, 3, 0.4, "annealed")), (1.0,) * 4, 1.0, 0.3, 0.2),
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("seed", range(3))
def test_all_prompts_at_once_take_the_steps_of_one_after_another(
    name: str, seed: int, random_trace_of: TraceOf, with_branches_of: TraceOf, costs: CostTable
) -> None:
    rng = np.random.default_rng(seed)
    traces = [with_branches_of(rng, random_trace_of(rng, EXITS, f"p{i}"), 6, rng.random()) for i in range(9)]
    situation = Situation(NUM_LAYERS, "none", costs)
    fast, slow = (
        run(traces, SETTINGS[name].policy(situation), costs, NUM_LAYERS, "none") for run in (replay, replay_stepwise)
    )
    for total in ("num_steps", "num_drafted", "num_accepted", "num_layer_calls"):
        np.testing.assert_array_equal(getattr(fast, total), getattr(slow, total), err_msg=total)
    np.testing.assert_allclose(fast.work, slow.work)
    np.testing.assert_allclose(fast.seconds, slow.seconds)
    assert fast.estimates is not None and slow.estimates is not None
    np.testing.assert_array_equal(fast.estimates.num_steps, slow.estimates.num_steps)
    np.testing.assert_allclose(fast.estimates.error_s, slow.estimates.error_s, atol=1e-9)
    assert fast.num_drafted.sum() > 0


LIVE_EXITS, LIVE_LAYERS, NUM_TOKENS = (1, 2, 3), 4, 30


class Live:
    """A tiny model with a log of it in which every wrong draft was followed."""

    def __init__(self, folder: Path) -> None:
        loaded = load_model(str(folder))
        self.decoder = SpecBoundDecoder(greedy_twin(loaded.model, has_end=False), None)
        generator = torch.Generator().manual_seed(4)
        self.prompts = [torch.randint(2, 60, (1, length), generator=generator) for length in (2, 6, 11)]
        adapter = ModelAdapter(loaded.model)
        recorder = Recorder(
            adapter, RecordSettings(LIVE_EXITS, NUM_TOKENS, (), rollouts=RolloutSettings(1.0, 8)), "token"
        )
        self.traces = [recorder.record(ids, index) for index, ids in enumerate(self.prompts)]


@pytest.fixture(scope="module")
def live(sharp_model_dir: Path) -> Live:
    return Live(sharp_model_dir)


LIVE_SETTINGS: dict[str, Settings] = {
    "draft_verify": DraftVerifySettings(2, 5, start=0.3, target=0.7, step=0.5),
    "svip": SvipSettings(2, 5, root_entropy=1.87),
    "gammatune": GammaTuneSettings(2, 2, 6, 0.5, 1.5),
    "hf_heuristic": HeuristicSettings(2, 3, 6),
    "logistic": LogisticSettings(2, tuple((0.0, 0.0, 0.3, 0.0, 0.0, 0.4) for _ in range(5)), 0.6, 20),
    "speckv": SpecKVSettings(2, (1, 2, 4), ((0, 0, 2.5, 0, 0, 0, 0, 0, 0, 0, -0.2),), (0.0,), ((1.0,),), (0.0,)),
    "ucb": UcbSettings((Action(1, 2), Action(2, 4), Action(3, 3, 0.4, "annealed")), (1.0,) * 3, 1.0, 0.3),
}


@pytest.mark.parametrize("name", LIVE_SETTINGS)
def test_replay_says_what_the_decoder_does(name: str, live: Live, costs: CostTable) -> None:
    settings, situation = LIVE_SETTINGS[name], Situation(LIVE_LAYERS, "none", costs)
    policy = settings.policy(situation)
    records = replay(live.traces, policy, costs, LIVE_LAYERS, "none", keep_records=True).records
    assert records is not None
    live.decoder.policy, num_drafted, shapes = settings.policy(situation), 0, set()
    for ids, trace, replayed in zip(live.prompts, live.traces, records, strict=True):
        output = live.decoder.decode(ids, max_new_tokens=trace.length_limit)
        assert output.sequences[0, ids.shape[1] :].tolist() == trace.tokens.tolist()
        assert len(output.stats.steps) == len(replayed)
        for step, record in zip(output.stats.steps, replayed, strict=True):
            for field in EXACT_FIELDS:
                assert getattr(step, field) == getattr(record, field), field
            num_drafted += step.num_drafted
            shapes.add((step.num_drafted, step.stop_reason))
    assert num_drafted > 10 and len(shapes) > 2  # the policy did adapt, or its test did stop drafts


def test_a_draft_index_has_a_weight_of_its_own_in_static_replays_too(
    random_trace_of: TraceOf, costs: CostTable
) -> None:
    rng = np.random.default_rng(6)
    traces = [random_trace_of(rng, EXITS, f"p{i}") for i in range(6)]
    sure, never = (0.0,) * 5 + (9.0,), (0.0,) * 5 + (-9.0,)
    decision = (
        LogisticSettings(3, (sure, sure, never), 0.1, 20).policy(Situation(NUM_LAYERS, "none", costs)).decisions[0]
    )
    result = replay_static(traces, decision, costs, NUM_LAYERS)
    assert (result.num_drafted <= 2 * result.num_steps).all() and result.num_drafted.sum() > result.num_steps.sum()
