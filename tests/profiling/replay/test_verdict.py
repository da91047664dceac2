"""What a log promises: intervals with their sample, settings chosen on other prompts, who carries the gain."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from specbound_controller.actions import WIDTHS, static_grid
from specbound_controller.costs import CostTable
from specbound_controller.policy import AnnealedConfidence
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.replay.best_static import static_prompt_seconds, static_seconds
from specbound_profiling.replay.oracle import oracle
from specbound_profiling.replay.trace_batch import TraceBatch
from specbound_profiling.replay.verdict import Verdict, verdict

TraceOf = Callable[..., PromptTrace]


def judged(traces: Sequence[PromptTrace], costs: CostTable, size: int = 1) -> Verdict:
    """By shards of so many prompts."""
    return verdict([traces[i : i + size] for i in range(0, len(traces), size)], costs, 8)


def trace(trace_of: TraceOf, lookups: int, exits: int, length: int = 20, **changes: object) -> PromptTrace:
    """Every so-manieth position agrees, 0 is none: of lookups and of one exit."""
    rows = [[lookups and i % lookups == 0, exits and i % exits == 0] for i in range(length)]
    return trace_of([[bool(a), bool(b)] for a, b in rows], (0, 2), confidence=[[0.9, 0.9]] * length, **changes)


def test_verdict_is_no_where_even_the_oracle_gains_less_than_a_tenth(trace_of: TraceOf, costs: CostTable) -> None:
    few = judged([trace_of([[0]] * 9)], costs)
    assert "not worth a controller here, but 1 prompts are too few to be sure" in str(few)
    many = judged([trace_of([[0]] * 9)] * 6, costs)
    assert "not worth a controller here; exits of this model agree at most 0% up to layer 2: train exits" in str(many)
    assert many.oracle.value == many.oracle.low == many.oracle.high == 1.0


def test_verdict_is_yes_where_exits_agree_on_enough_prompts(trace_of: TraceOf, costs: CostTable) -> None:
    good = judged([trace_of([[1]] * 9)] * 6, costs)
    assert good.oracle.value > 1.5 and good.best_static == "exit2_width8" and good.agreement == {2: 1.0}
    assert good.num_positions == 54 and good.conclusion == "worth a controller"
    assert good.oracle_of_lookups is None and good.oracle_of_exits is None
    two = judged([trace_of([[1]] * 9)] * 2, costs)
    assert math.isnan(two.oracle.low) and two.conclusion.startswith("perhaps worth a controller: 2 prompts are too few")


def test_a_gain_of_one_prompt_in_many_is_not_sure(trace_of: TraceOf, costs: CostTable) -> None:
    traces = [trace_of([[1]] * 30)] + [trace_of([[0]] * 9)] * 9
    found = judged(traces, costs)
    assert found.oracle.value > 1.1 > found.oracle.low
    assert "perhaps worth a controller: 10 prompts are too few to be sure; profile more" in found.conclusion


def test_lookups_that_carry_the_gain_are_named_and_exits_that_do_not(trace_of: TraceOf, costs: CostTable) -> None:
    found = judged([trace(trace_of, lookups=1, exits=12)] * 6, costs)
    assert found.conclusion == (
        "worth a controller for lookups only: drafts looked up in the context carry the gain; exits of this model "
        "agree at most 10% up to layer 2: train exits, or leave them out (--exit-layers 0)"
    )
    assert found.oracle_of_exits is not None and found.oracle_of_lookups is not None
    assert found.oracle_of_exits.value < 1.1 < found.oracle_of_lookups.value <= found.oracle.value + 1e-9
    other = judged([trace(trace_of, lookups=0, exits=1)] * 6, costs)
    assert other.conclusion == "worth a controller: exits carry the gain, lookups add little"
    assert "oracle with lookups alone 1.00x (1.00 to 1.00), with exits alone" in str(other)


def test_each_prompts_setting_is_chosen_on_the_others(
    random_trace_of: Callable[..., PromptTrace], costs: CostTable
) -> None:
    rng = np.random.default_rng(0)
    traces = [random_trace_of(rng, (0, 2, 4)) for _ in range(7)]
    found = judged(traces, costs, size=3)
    actions = static_grid((0, 2, 4), WIDTHS)
    decisions = [action.decision({"annealed": AnnealedConfidence(0.0)}) for action in actions]
    of_prompt = [static_seconds([each], costs, decisions, 8) for each in traces]
    plain = sum(seconds[0] for seconds in of_prompt)
    chosen = 0.0
    for index, own in enumerate(of_prompt):
        others = sum(seconds for place, seconds in enumerate(of_prompt) if place != index)
        chosen += float(own[int(np.argmin(others))])
    assert found.static.value == pytest.approx(plain / chosen, rel=1e-6)
    assert found.static.low <= found.static.value <= found.static.high
    assert found.static.value <= plain / np.sum(of_prompt, axis=0).min() + 1e-9
    assert math.isnan(judged(traces[:1], costs).static.value)
    batch = TraceBatch(traces)
    np.testing.assert_allclose(static_prompt_seconds(batch, costs, decisions, 8), of_prompt, rtol=1e-12)


def test_oracle_of_some_exits_is_that_of_a_log_of_only_those(
    random_trace_of: Callable[..., PromptTrace], costs: CostTable
) -> None:
    rng = np.random.default_rng(1)
    traces = [random_trace_of(rng, (0, 2, 4)) for _ in range(5)]
    whole = oracle(traces, costs, 8, 6).seconds
    lookups, exits = (oracle(traces, costs, 8, 6, part).seconds for part in ((0,), (2, 4)))
    assert (whole <= lookups + 1e-9).all() and (whole <= exits + 1e-9).all() and (lookups != exits).any()
    np.testing.assert_allclose(oracle(traces, costs, 8, 6, (0, 2, 4)).seconds, whole)


def test_sample_and_intervals_are_stated(trace_of: TraceOf, costs: CostTable) -> None:
    text = str(judged([trace(trace_of, lookups=2, exits=3)] * 6, costs))
    assert "in brackets 95 % over 6 prompts" in text and "chosen on the other prompts; on all it is" in text
    assert text.splitlines()[-1].strip() == judged([trace(trace_of, lookups=2, exits=3)] * 6, costs).conclusion
