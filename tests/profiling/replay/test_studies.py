"""Studies by replay: counted by hand, and the search against all settings."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from specbound_controller.costs import CostTable
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.replay.replay import replay, replay_static
from specbound_profiling.replay.simulate import simulate
from specbound_profiling.replay.studies import (
    Setting,
    StudyData,
    ablation,
    best_setting,
    halves,
    recomputed,
    replay_recomputing,
    sensitivity,
    with_value,
)
from specbound_profiling.replay.trace_batch import TraceBatch

TraceOf = Callable[..., PromptTrace]
EXITS, NUM_LAYERS = (1, 3, 4), 6


@pytest.fixture
def traces(random_trace_of: TraceOf) -> list[PromptTrace]:
    rng = np.random.default_rng(3)
    traces = [random_trace_of(rng, EXITS, f"p{i}") for i in range(16)]
    return [trace for trace in traces if trace.num_positions > 1]


@pytest.fixture
def data(traces: list[PromptTrace], costs: CostTable) -> StudyData:
    searched, judged = halves(traces)
    return StudyData(TraceBatch(searched), TraceBatch(judged), costs, NUM_LAYERS, seed=0)


BASE = Setting(EXITS, alpha=0.5, threshold=0.4, d_max=3, w_max=3)


def test_a_step_that_keeps_nothing_runs_every_layer_on_all_its_tokens(trace_of: TraceOf) -> None:
    confidence = [[0.9, 0.9, 0.9], [0.9, 0.9, 0.9], [0.1, 0.9, 0.9], [0.1, 0.1, 0.1]] + [[0.9] * 3] * 4
    trace = trace_of([[1, 1, 1]] * 8, EXITS, confidence)
    setting = Setting(EXITS, alpha=0.0, threshold=0.5, d_max=4, w_max=5)
    record = simulate(trace, 1, setting.decision(), None, NUM_LAYERS).record
    # drafts at exits 1 and 3, then none up to exit 4: the first token runs layer 1, two of them layers 2 and 3,
    # then the third token layer 1 to 3 alone and all three layer 4; verification runs layers 5 and 6
    assert record.exit_layers == (1, 3) and record.stop_reason == "depth"
    assert record.layer_calls_by_rows == {1: 5, 2: 2, 3: 3}
    assert recomputed(record, NUM_LAYERS, deepest=4).layer_calls_by_rows == {1: 5, 2: 2, 3: 1 + NUM_LAYERS}


@pytest.mark.parametrize(("exit_layer", "threshold"), itertools.product(EXITS, (0.0, 0.5)))
def test_recomputing_at_one_exit_counts_drafting_and_a_whole_forward(
    exit_layer: int, threshold: float, traces: list[PromptTrace]
) -> None:
    setting = Setting((exit_layer,), 0.0, threshold, exit_layer, 4)
    for trace in traces:
        for start in range(1, trace.num_positions):
            record = simulate(trace, start, setting.decision(), None, NUM_LAYERS).record
            drafting = exit_layer * (record.num_drafted + (record.stop_reason == "depth"))
            calls = recomputed(record, NUM_LAYERS, exit_layer).layer_calls_by_rows
            rows = record.num_drafted + 1
            expected = {1: drafting + NUM_LAYERS} if rows == 1 else {1: drafting, rows: NUM_LAYERS}
            assert calls == {r: count for r, count in expected.items() if count}


def test_replay_that_recomputes_changes_the_work_only(traces: list[PromptTrace], costs: CostTable) -> None:
    for setting in (BASE, replace(BASE, d_max=4, threshold=0.7), replace(BASE, exit_layers=(1,), d_max=1)):
        kept = replay(traces, setting.policy(), costs, NUM_LAYERS, "none")
        bare = replay_recomputing(traces, setting, costs, NUM_LAYERS, "none")
        assert bare.num_steps.tolist() == kept.num_steps.tolist()
        assert bare.num_drafted.tolist() == kept.num_drafted.tolist()
        assert (bare.num_layer_calls > kept.num_layer_calls).any() and (bare.seconds >= kept.seconds).all()
        assert (
            kept.num_layer_calls.tolist()
            == replay_static(traces, setting.decision(), costs, NUM_LAYERS).num_layer_calls.tolist()
        )


def test_the_search_finds_the_fastest_setting_of_the_grid_along_the_parameters(data: StudyData) -> None:
    choices = {"threshold": (0.2, 0.5, 0.8), "w_max": (1, 2, 5)}
    best = best_setting(BASE, choices, data.seconds)
    for name, values in choices.items():
        assert all(data.seconds(best) <= data.seconds(with_value(best, name, value)) for value in values)
    assert data.seconds(best) <= data.seconds(BASE)
    assert (best.alpha, best.d_max) == (BASE.alpha, BASE.d_max)
    assert best_setting(BASE, {}, data.seconds) == BASE


def test_sensitivity_varies_one_parameter_at_a_time(data: StudyData) -> None:
    base, *points = sensitivity(data, BASE, {"alpha": (0.5, 0.0), "d_max": EXITS})
    assert [point.label for point in points] == ["alpha 0", "alpha 0.5", "d_max 1", "d_max 3", "d_max 4"]
    same = [point for point in points if point.setting == BASE]
    assert len(same) == 2 and all(point.speedup == base.speedup for point in same)
    for point in points:
        assert point.setting in (BASE, with_value(BASE, point.parameter, getattr(point.setting, point.parameter)))
        seconds = replay_static(data.judged, point.setting.decision(), data.costs, NUM_LAYERS).seconds
        assert point.result.seconds.tolist() == seconds.tolist()


def test_ablation_takes_one_part_away(data: StudyData) -> None:
    rows = {row.fixed.label: row for row in ablation(data, BASE, (0.2, 0.5, 0.8), longest=30, compression="none")}
    settings = {label: row.fixed.setting for label, row in rows.items()}
    assert settings == {
        "all parts": BASE,
        "without annealing": replace(BASE, alpha=0.0),
        "without the depth bound": replace(BASE, d_max=4),
        "without the width bound": replace(BASE, w_max=30),
        "without kept hidden states": BASE,
    }
    assert rows["without kept hidden states"].fixed.speedup < rows["all parts"].fixed.speedup
    for label, row in rows.items():
        assert replace(row.tuned.setting, threshold=BASE.threshold) == settings[label]


def test_halves_hold_every_prompt_once_and_every_kind_twice(traces: list[PromptTrace]) -> None:
    searched, judged = halves(traces)
    assert sorted(t.prompt_id for t in searched + judged) == sorted(t.prompt_id for t in traces)
    for task in {trace.task for trace in traces}:
        counts = [sum(t.task == task for t in part) for part in (searched, judged)]
        assert counts[0] - counts[1] in (0, 1)
