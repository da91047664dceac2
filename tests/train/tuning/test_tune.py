"""What the learned baselines are fitted on, and the search at one level."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from specbound_controller.actions import static_grid
from specbound_controller.baselines.draft_verify import DraftVerifySettings
from specbound_controller.baselines.fixed import LayerSkipSettings, StaticSettings
from specbound_controller.baselines.lengths import GammaTuneSettings
from specbound_controller.baselines.logistic import LogisticSettings
from specbound_controller.baselines.situation import Search, Situation
from specbound_controller.baselines.tuned import SETTINGS
from specbound_controller.baselines.ucb import UcbSettings
from specbound_controller.costs import CostTable
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.replay.oracle import accepted_run
from specbound_profiling.replay.replay import replay
from specbound_profiling.replay.trace_batch import TraceBatch
from specbound_train.tuning import tune as tuning
from specbound_train.tuning.fit import logistic_weights, speckv_settings

TracesOf = Callable[..., list[PromptTrace]]
EXITS, NUM_LAYERS = (2, 4), 12


@pytest.fixture(scope="module")
def traces(traces_of: TracesOf) -> list[PromptTrace]:
    return traces_of(0, 16, 60)


def test_runs_of_right_drafts_end_at_a_wrong_one_and_at_the_trace(traces_of: TracesOf) -> None:
    first, second = traces_of(1, 2, 5)
    first.is_accepted[:, 0] = [True, True, False, True, True]
    second.is_accepted[:, 0] = [True, False, True, True, True]
    assert accepted_run(TraceBatch([first, second]), 10)[:, 0].tolist() == [2, 1, 0, 2, 1, 1, 0, 3, 2, 1]


def test_logistic_rows_are_drafts_whose_predecessors_were_accepted(traces: list[PromptTrace]) -> None:
    from sklearn.linear_model import LogisticRegression

    batch = TraceBatch(traces)
    weights = np.array(logistic_weights(batch, 4, 3))
    assert weights.shape == (3, 6)
    rows, outcomes = [], []  # position 1: the draft before it, in the same trace, was right
    for trace in traces:
        for position in range(2, trace.num_positions):
            if trace.is_accepted[position - 1, 1]:
                rows.append(position_signals(trace, position))
                outcomes.append(trace.is_accepted[position, 1])
    x, y = np.array(rows), np.array(outcomes)
    scale = 1 / np.maximum(x.std(axis=0), 1e-9) * (x.std(axis=0) > 1e-9)
    model = LogisticRegression(max_iter=300).fit((x - x.mean(axis=0)) * scale, y)
    expected = model.predict_proba((x - x.mean(axis=0)) * scale)[:, 1]
    mine = 1 / (1 + np.exp(-(x @ weights[1, :-1] + weights[1, -1])))
    np.testing.assert_allclose(mine, expected, atol=1e-5)
    assert np.corrcoef(mine, y)[0, 1] > 0.3


def position_signals(trace: PromptTrace, position: int) -> tuple[float, ...]:
    from specbound_controller.score import signal_values

    return signal_values(trace.signals(position, 1, 1, 1.0))[:5]


def test_position_that_is_never_reached_takes_the_weights_before_it(traces: list[PromptTrace]) -> None:
    few = logistic_weights(TraceBatch(traces[:2]), 2, 8)
    assert few[-1] == few[-2]
    always = replace(traces[0], is_accepted=np.ones_like(traces[0].is_accepted))
    first, second = logistic_weights(TraceBatch([always]), 2, 2)  # nothing to tell apart: 59 of 59, plus one of each
    assert first == second == (0.0, 0.0, 0.0, 0.0, 0.0, pytest.approx(np.log(60.0)))


@pytest.mark.parametrize("is_causal", [False, True])
def test_speckv_foretells_acceptance_better_than_its_mean(traces: list[PromptTrace], is_causal: bool) -> None:
    from specbound_controller.mlp import Mlp
    from specbound_train.tuning.fit import _speckv_steps

    batch = TraceBatch(traces)
    settings = speckv_settings([("none", batch)], 4, is_causal, seed=0)
    assert len(settings.start_signals) == (0 if is_causal else 4)
    steps = _speckv_steps(batch, 1, "none", is_causal, 2000, seed=5)
    arrays = (settings.weight1, settings.bias1, settings.weight2, settings.bias2)
    mlp = Mlp(*(np.array(array, dtype=np.float32) for array in arrays))
    correlation = np.corrcoef(mlp(steps.inputs)[:, 0], steps.acceptance)[0, 1]
    assert correlation > (0.25 if is_causal else 0.5)


def test_speckv_signals_are_those_of_the_draft_and_causal_ones_of_the_draft_before(traces: list[PromptTrace]) -> None:
    from specbound_train.tuning.fit import _draft_signals

    batch, trace = TraceBatch(traces), traces[0]
    signals = _draft_signals(batch, 1, np.array([7, 57]), np.array([3, 8]))
    confidence, entropy = trace.confidence[:, 1].astype(float), trace.entropy_nats[:, 1].astype(float)
    assert signals[0] == pytest.approx([confidence[9], entropy[9], confidence[7:10].mean(), entropy[7:10].mean()])
    assert signals[1] == pytest.approx([confidence[59], entropy[59], confidence[57:].mean(), entropy[57:].mean()])


def test_no_policy_tries_more_than_the_static_grid_holds() -> None:
    for num_exits in (1, 3, 8, 16):
        exits = tuple(range(1, num_exits + 1))
        budget, likely = len(static_grid(exits)), exits[: tuning.NUM_EXITS]
        grid = static_grid(exits)
        for name, kind in SETTINGS.items():
            search = Search(exits if kind.is_constant else likely, grid, [1.0] * len(grid))
            candidates = list(kind.candidates(search))
            assert len(candidates) <= budget
            assert (len(candidates) > 1) == (name not in ("logistic", "speckv", "speckv_causal"))  # fitted on a log
        rounds = len(tuning.LOGISTIC_WIDTHS) * tuning.NUM_RHO_ROUNDS * len(likely)
        assert max(rounds, len(tuning.DRAFT_LENGTHS) * len(likely)) <= budget


def test_bandits_have_the_fastest_action_of_each_width_or_exit_layer() -> None:
    grid = static_grid((1, 2), widths=(1, 2), thresholds=(0.5,))
    speeds = [1.0 + 0.01 * index for index in range(len(grid))]
    by_width, *_, by_exit = UcbSettings.candidates(Search((1, 2), grid, speeds, 0.5))
    assert [arm.width for arm in by_width.arms] == [2, 1, 0] and by_width.prior_speeds[-1] == 1.0
    assert [arm.exit_layer for arm in by_exit.arms] == [2, 1, 0] and by_exit.arms[0] == grid[-1]


def test_search_finds_the_fastest_settings_of_every_policy(
    traces: list[PromptTrace], costs_of: Callable[..., CostTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind, share in ((DraftVerifySettings, 9), (GammaTuneSettings, 7)):
        of_kind, every = kind.candidates, slice(None, None, share)
        monkeypatch.setattr(kind, "candidates", lambda search, of_kind=of_kind, every=every: of_kind(search)[every])
    costs = costs_of()
    level = tuning.tune_levels({"none": traces}, {"none": costs}, NUM_LAYERS, 0, lambda line: None)["none"]
    assert set(level.policies) == set(SETTINGS)
    situation = Situation(NUM_LAYERS, "none", costs)
    for name, tuned in level.policies.items():
        result = replay(traces, tuned.settings.policy(situation), costs, NUM_LAYERS, "none")
        assert result.tokens_per_second == pytest.approx(tuned.tokens_per_second), name
    fixed, best = (level.policies[name] for name in ("layerskip", "best_static"))
    assert isinstance(fixed.settings, LayerSkipSettings) and isinstance(best.settings, StaticSettings)
    others = [LayerSkipSettings(e, w).policy(situation) for e in EXITS for w in (1, 2, 3, 4, 6, 8)]
    speeds = [replay(traces, policy, costs, NUM_LAYERS, "none").tokens_per_second for policy in others]
    assert max(speeds) == pytest.approx(fixed.tokens_per_second) and fixed.num_candidates == 12
    assert level.plain_tokens_per_second < fixed.tokens_per_second <= best.tokens_per_second
    logistic = level.policies["logistic"].settings
    assert isinstance(logistic, LogisticSettings) and logistic.speedup > 1.0
