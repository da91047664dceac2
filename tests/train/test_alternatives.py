"""The study of objectives: targets equal simulated steps, fits rank as they should, the command prints its figures."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from specbound_controller.actions import action_grid
from specbound_controller.costs import CostTable
from specbound_controller.features import FEATURE_NAMES
from specbound_controller.mlp import Mlp
from specbound_controller.policy import AnnealedConfidence
from specbound_controller.work import record_work
from specbound_profiling.log import open_log
from specbound_profiling.manifest import write_cost_file
from specbound_profiling.oracle import oracle_grid
from specbound_profiling.outcomes import TraceBatch
from specbound_profiling.simulate import simulate_step
from specbound_profiling.trace import PromptTrace
from specbound_train.alternatives import CURVES, main, study
from specbound_train.alternatives_fit import OBJECTIVES, fit_objective, oracle_shares, regrets
from specbound_train.alternatives_players import RankingPolicy
from specbound_train.alternatives_rows import OutcomeRows, Pricing, outcome_rows, rest_seconds
from specbound_train.collecting import collect_steps
from specbound_train.config import TrainConfig
from specbound_train.modules import FitSettings
from tests.profiling.conftest import with_branches
from tests.train.conftest import synthetic_trace
from tests.train.test_rows import ACTIONS, EXITS, NUM_LAYERS, RandomPolicy, random_score

Traces = Callable[..., list[PromptTrace]]
Costs = Callable[..., CostTable]
NUM_FEATURES = len(FEATURE_NAMES)
BY_NAME = {objective.name: objective for objective in OBJECTIVES}
SETTINGS = FitSettings(hidden_units=16, epochs=40, learning_rate=3e-3, weight_decay=0.0, seed=0)


def made_up_rows(num_rows: int = 1200, seed: int = 0) -> OutcomeRows:
    """Two actions: the first is worth more where feature 0 is above 0, the second elsewhere; both noisy."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(num_rows, NUM_FEATURES)).astype(np.float32)
    first = 2.0 + np.sign(features[:, 0]) + 0.5 * rng.normal(size=num_rows)
    emitted = np.column_stack([first, 2.0 + 0.5 * rng.normal(size=num_rows)]).astype(np.float32)
    seconds = np.full_like(emitted, 1e-2)
    rest = (10.0 - emitted) * 1e-2  # the rest takes 10 ms a token
    return OutcomeRows(features, emitted, seconds, rest, np.arange(num_rows) % 2)


@pytest.mark.parametrize(("has_full_signals", "rollout_share"), [(False, 0.0), (True, 1.0)])
def test_outcomes_equal_the_step_that_each_action_would_take(
    costs_of: Costs, has_full_signals: bool, rollout_share: float
) -> None:
    rng, costs = np.random.default_rng(1), costs_of()
    traces = [replace(synthetic_trace(rng, index, 25, EXITS), eos_token_ids=(9,)) for index in range(3)]
    traces = [with_branches(rng, trace, 4, rollout_share) for trace in traces]
    batch, scores = TraceBatch(traces), (random_score(0), random_score(1))
    policy = RandomPolicy(1)
    policy.needs_full_signals = has_full_signals
    steps, _ = collect_steps(batch, np.arange(3) % 2, policy, costs, NUM_LAYERS, "none")
    pricing = Pricing(ACTIONS, NUM_LAYERS, costs, has_full_signals)
    rest = rest_seconds(traces, pricing, alpha=0.5)
    rows = outcome_rows(steps, pricing, scores, rest)
    for row in range(len(rows)):
        trace = traces[np.searchsorted(batch.end_row, steps.rows[row], side="right")]
        start, score = int(batch.position[steps.rows[row]]), scores[steps.folds[row]]
        for column, action in enumerate(ACTIONS):
            decision = action.decision({"learned": score})
            record = simulate_step(trace, start, decision, steps.features[row], NUM_LAYERS, has_full_signals)
            assert rows.emitted[row, column] == record.num_emitted
            assert rows.seconds[row, column] == pytest.approx(costs.seconds(record_work(record, True)), rel=1e-5)
            wanted = rest[trace.prompt_id][start + record.num_emitted]
            assert rows.rest_s[row, column] == pytest.approx(wanted, rel=1e-5)


def test_rest_of_a_prompt_is_what_the_oracle_on_the_grid_takes(traces_of: Traces, costs_of: Costs) -> None:
    traces, costs = traces_of(2, 4, 30), costs_of()
    decisions = [
        action.decision({"annealed": AnnealedConfidence(0.5)})
        for action in action_grid((2, 4), (1, 4), (0.3,), "annealed")
    ]
    pricing = Pricing(
        action_grid((2, 4), (1, 4), (0.3,)),
        NUM_LAYERS,
        replace(costs, coefficients={**costs.coefficients, "decisions": 0.0}),
        False,
    )
    rest = rest_seconds(traces, pricing, alpha=0.5)
    limit = oracle_grid(traces, pricing.costs, NUM_LAYERS, decisions)
    np.testing.assert_allclose([rest[trace.prompt_id][1] for trace in traces], limit.seconds, rtol=1e-9)
    assert all(len(rest[trace.prompt_id]) == 31 and rest[trace.prompt_id][30] == 0.0 for trace in traces)


def test_regret_and_oracle_shares_by_hand() -> None:
    rows = OutcomeRows(
        features=np.zeros((2, NUM_FEATURES), np.float32),
        emitted=np.array([[1, 3, 2], [1, 1, 1]], np.float32),
        seconds=np.array([[0.1, 0.2, 0.1], [0.1, 0.3, 0.1]], np.float32),
        rest_s=np.array([[0.5, 0.25, 0.4], [0.3, 0.3, 0.3]], np.float32),
        folds=np.zeros(2, np.int64),
    )
    np.testing.assert_allclose(regrets(rows, 10.0), [[1, 0, 0], [0, 2, 0]], atol=1e-6)  # worth 0 1 1, 0 -2 0
    np.testing.assert_allclose(oracle_shares(rows, 10.0), [[0, 1, 0], [0.5, 0, 0.5]])  # total 0.6 0.45 0.5


@pytest.mark.parametrize("name", BY_NAME)
def test_every_objective_learns_which_action_is_better_where(name: str) -> None:
    objective, rows, fresh = BY_NAME[name], made_up_rows(), made_up_rows(seed=1)
    for mlp in fit_objective(objective, rows, 100.0, SETTINGS):
        chosen = objective.ranking(mlp, rows.features)(fresh.features).argmax(axis=1)
        assert (chosen == (fresh.features[:, 0] < 0)).mean() > 0.85


@pytest.mark.parametrize("name", BY_NAME)
def test_fits_of_the_same_seed_are_equal_and_leave_their_fold_out(name: str) -> None:
    objective, rows = BY_NAME[name], made_up_rows(200)
    settings = replace(SETTINGS, epochs=3)
    first, again = (fit_objective(objective, rows, 100.0, settings) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.weight2, other.weight2)
    assert not np.array_equal(first[0].weight2, first[1].weight2)
    assert first[0].weight1.shape == (8, NUM_FEATURES)


def test_ranking_policy_decides_the_same_one_by_one_and_at_once() -> None:
    rng = np.random.default_rng(0)
    shapes = ((4, NUM_FEATURES), (4,), (len(ACTIONS), 4), (len(ACTIONS),))
    mlp = Mlp(*(rng.normal(size=shape).astype(np.float32) for shape in shapes))
    policy = RankingPolicy(mlp, ACTIONS, random_score(), needs_full_signals=False)
    features = rng.normal(size=(20, NUM_FEATURES)).astype(np.float32)
    at_once = policy.decide_batch(features, np.arange(20)).decision
    assert len(set(at_once)) > 1
    assert [policy.decide(row) for row in features] == [policy.decisions[index] for index in at_once]


def small(log: Path) -> TrainConfig:
    return TrainConfig(str(log), "", epochs=3, max_rounds=1, widths=(1, 2, 4), thresholds=(0.3, 0.6), report=False)


def test_study_judges_every_objective_at_every_price(log_dir: Path, costs_of: Costs) -> None:
    judged = study(small(log_dir), open_log(log_dir), {"int8": costs_of(row_slope=0.9)})
    names = [CURVES, *BY_NAME]
    assert [(each.objective, each.fitted_for, each.priced_at) for each in judged] == [
        (name, *prices) for prices in (("log", "log"), ("log", "int8"), ("int8", "int8")) for name in names
    ]
    for each in judged:
        assert 1.0 <= each.tokens_per_step <= 5.0 and each.speedup > 0.5 and each.decision_us > 0
        assert each.over_static_low <= each.over_static <= each.over_static_high
        assert each.can_be_priced == (each.objective == CURVES)
        if each.objective == CURVES and each.fitted_for == "log":
            assert each.over_curves == each.over_curves_low == each.over_curves_high == 1.0
    for at_log, at_int8 in zip(judged[:5], judged[5:10], strict=True):  # one choice, two prices: as many tokens a step
        same = at_log.tokens_per_step == at_int8.tokens_per_step
        assert same or at_log.objective == CURVES
    actions = 1 + 2 * 3 * 3
    assert [each.num_outputs for each in judged[1:5]] == [actions, 2 * actions, actions, actions]


def test_command_prints_a_table_and_writes_the_figures(
    small_log_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "table.json"
    options = ["--log", str(small_log_dir), "--epochs", "2", "--max_rounds", "1", "--hidden_units", "8"]
    monkeypatch.setattr("sys.argv", ["alternatives", *options, "--out", str(out)])
    assert main() == 0
    printed = capsys.readouterr().out
    assert all(f"| {name} |" in printed for name in (CURVES, *BY_NAME))
    assert [each["objective"] for each in json.loads(out.read_text())] == [CURVES, *BY_NAME]


def test_folder_for_the_figures_that_does_not_exist_is_refused_before_the_work(
    small_log_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "none" / "table.json"
    monkeypatch.setattr("sys.argv", ["alternatives", "--log", str(small_log_dir), "--out", str(out)])
    assert main() == 2
    assert capsys.readouterr().err == f"alternatives: out must be a file in a folder that exists, got {out}\n"


def test_prices_that_the_file_does_not_hold_are_refused_in_one_line(
    small_log_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    costs_of: Costs,
) -> None:
    write_cost_file(tmp_path / "costs.json", {"int8": costs_of()})
    options = ["--log", str(small_log_dir), "--costs", str(tmp_path / "costs.json"), "--prices", "nf4"]
    monkeypatch.setattr("sys.argv", ["alternatives", *options])
    assert main() == 2
    assert capsys.readouterr().err == "alternatives: prices must name a level of costs, int8, got 'nf4'\n"
