"""Steps timed beside a probe: what slows the machine down is taken out of the seconds."""

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from specbound.decoding import decoder as decoder_module
from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.greedy_twin import greedy_twin
from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.model.segments import StaticSegments
from specbound.decoding.sequence import Sequence
from specbound.models.loading import LoadedModel, load_model
from specbound_controller.policy import StaticPolicy
from specbound_profiling.costs.measure import RandomPolicy, cost_measurement
from specbound_profiling.costs.overheads import MIN_TIMINGS, bookkeeping_seconds, overhead_seconds
from specbound_profiling.costs.stopwatch import Stopwatch, TimedSteps, step_clock
from tests.decoding.families import random_model, random_prompt


@pytest.fixture(scope="module")
def loaded(tiny_model_dir: Path) -> LoadedModel:
    return load_model(str(tiny_model_dir))


@pytest.fixture
def decoder(loaded: LoadedModel) -> SpecBoundDecoder:
    return SpecBoundDecoder(greedy_twin(loaded.model, has_end=False), StaticPolicy((1,), 0.0, 2))


def test_clock_is_cpu_time_only_where_one_cpu_thread_does_the_work() -> None:
    expected = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    assert step_clock(torch.device("cpu")) is expected
    assert step_clock(torch.device("cuda")) is time.perf_counter


def test_steps_on_a_slowed_machine_take_what_they_took_before() -> None:
    slowdown = np.repeat([1.0, 1.7, 1.2], 40)
    work = np.tile([0.010, 0.025], 60)
    timed = TimedSteps([], work * slowdown, 0.002 * slowdown)
    error = timed.at_speed(0.002) / work - 1.0
    assert np.abs(error).max() < 1e-9
    np.testing.assert_allclose(timed.at_speed(0.004), 2 * timed.at_speed(0.002))


def test_every_step_but_the_first_is_timed_and_the_probe_is_not_in_it(decoder: SpecBoundDecoder) -> None:
    ticks = itertools.count()
    watch = Stopwatch(decoder)
    watch.clock = lambda: float(next(ticks))
    watch.probe = lambda: 0.5 * len([next(ticks) for _ in range(50)]) / 50  # type: ignore[assignment]
    plain = decoder.decode([torch.tensor([[5, 6, 7]])], max_new_tokens=20)
    timed = watch.decode(torch.tensor([[5, 6, 7]]), 20)
    assert [r.num_emitted for r in timed.records] == [r.num_emitted for r in plain.stats.steps[1:]]
    assert timed.seconds.tolist() == [1.0] * len(timed.records) and set(timed.probe_s) == {0.5}


def test_timing_leaves_the_output_alone(decoder: SpecBoundDecoder) -> None:
    ids = torch.tensor([[5, 6, 7]])
    before = decoder.decode([ids], max_new_tokens=20).sequences
    Stopwatch(decoder).decode(ids, 20)
    assert torch.equal(decoder.decode([ids], max_new_tokens=20).sequences, before)


def test_random_decisions_of_a_prompt_are_the_same_in_every_round() -> None:
    policy, rounds = RandomPolicy((0, 1, 2, 3), seed=4), []
    for _ in range(2):
        policy.restart()
        decisions = []
        for _ in range(3):
            policy.reset()
            decisions += [policy.decide(None) for _ in range(40)]
        rounds.append(decisions)
    assert rounds[0] == rounds[1]
    widths = [decision.w_max for decision in rounds[0]]
    wide = [decision for decision in rounds[0] if decision.w_max > 8]
    assert all(list(d.thresholds.values()) == [0.0] and 0 not in d.thresholds for d in wide)  # so wide steps show
    assert min(widths) == 0 and len(wide) > 4 and len({len(d.thresholds) for d in rounds[0]}) == 3


def test_measurement_prices_the_overheads_and_judges_every_step_by_a_fit_without_it(loaded: LoadedModel) -> None:
    prompts = [torch.tensor([[3, 4, 5]]), torch.tensor([[7] * 9])]
    measured = cost_measurement(loaded, prompts, num_steps=60, max_seconds=20.0)
    assert len(measured.seconds) == len(measured.predicted) == measured.table.num_steps >= 60
    assert measured.num_rounds >= 1 and (measured.table.probe_s or 0) > 0
    error = np.median(np.abs(measured.predicted / measured.seconds - 1.0))
    assert measured.table.held_out_error == pytest.approx(error)


def test_overheads_of_a_slow_model_are_timed_a_few_times_only(decoder: SpecBoundDecoder) -> None:
    watch, num_probes = Stopwatch(decoder), [0]

    def probe() -> float:
        num_probes[0] += 1
        return 1.0

    watch.probe = probe  # type: ignore[assignment]
    seconds, _ = overhead_seconds(watch, (1, 2), max_seconds=0.0)
    assert num_probes == [4 * (MIN_TIMINGS + 1)]  # the first of all is warm-up
    assert all(0 < each < 0.1 for each in seconds.values())


def test_overheads_have_a_price_each(decoder: SpecBoundDecoder) -> None:
    seconds, probe_s = overhead_seconds(Stopwatch(decoder), (1, 2))
    assert probe_s > 0
    assert set(seconds) == {"exit_tests", "learned_scores", "decisions"}
    assert all(0 < each < 0.1 for each in seconds.values())


@pytest.mark.parametrize("exactness", ["token", "bitwise"])
def test_the_books_of_a_step_are_what_is_neither_layers_nor_head(
    decoder: SpecBoundDecoder, exactness: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def taking(seconds: float, call: Callable[..., Any]) -> Callable[..., Any]:
        def slow(*arguments: Any) -> Any:
            now[0] += seconds
            return call(*arguments)

        return slow

    decoder = SpecBoundDecoder(decoder.model, decoder.policy, exactness=exactness)
    policy, watch = decoder.policy, Stopwatch(decoder)
    watch.clock = lambda: now[0]
    monkeypatch.setattr(Sequence, "commit", taking(0.25, Sequence.commit))
    for name, seconds in (("_run_lean", 1.0), ("_run_modules", 1.0), ("read_head", 3.0)):
        monkeypatch.setattr(ModelAdapter, name, taking(seconds, getattr(ModelAdapter, name)))
    assert bookkeeping_seconds(watch, torch.tensor([[5, 6, 7]])) == 0.25
    assert decoder.policy is policy and "_run_lean" not in vars(decoder.step_adapter)


def test_no_price_holds_the_seconds_of_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    captures, by_decode, decode = list[object](), list[int](), Stopwatch.decode

    def capture(compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        captures.append(compute)
        return compute

    def watched(watch: Stopwatch, ids: Tensor, max_new_tokens: int) -> TimedSteps:
        before = len(captures)
        timed = decode(watch, ids, max_new_tokens)
        by_decode.append(len(captures) - before)
        return timed

    monkeypatch.setattr(Stopwatch, "decode", watched)
    monkeypatch.setattr(decoder_module, "compiled_segments", lambda adapter, _: StaticSegments(adapter, capture))
    loaded = LoadedModel(random_model("llama"), None, "random", "none")
    measured = cost_measurement(loaded, [random_prompt(0, 9)], 60, 0, 0.5, exit_layers=(1, 2), is_compiled=True)
    first_round = by_decode[1 : 1 + 3 * (len(by_decode[1:]) // 3)]  # after the warm-up
    assert sum(first_round) > 3 and not any(first_round[2::3]) and len(measured.seconds) >= 30
