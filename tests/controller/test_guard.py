"""The never-slower guard: bounds the modelled loss, leaves good speculation alone, and probes again."""

from collections.abc import Callable

import pytest

from specbound_controller.costs import CostTable, StepPrices, work_vector
from specbound_controller.guard import GuardLimits, NeverSlowerGuard
from specbound_controller.records import StepRecord
from specbound_controller.work import record_work, step_seconds

EXIT_LAYER, WIDTH, NUM_LAYERS = 4, 4, 12


def step(record_of: Callable[..., StepRecord], context: int, accepted: int, is_plain: bool) -> StepRecord:
    if is_plain:
        return record_of(
            context_length=context,
            num_drafted=0,
            num_accepted=0,
            num_emitted=1,
            exit_layers=(),
            stop_reason="off",
            layer_calls_by_rows={1: NUM_LAYERS},
            head_reads_by_rows={1: 1},
            num_exit_tests=0,
        )
    return record_of(
        context_length=context,
        num_drafted=WIDTH,
        num_accepted=accepted,
        num_emitted=accepted + 1,
        exit_layers=(EXIT_LAYER,) * WIDTH,
        layer_calls_by_rows={1: EXIT_LAYER * (WIDTH + 1), WIDTH + 1: NUM_LAYERS - EXIT_LAYER},
        head_reads_by_rows={1: WIDTH, WIDTH + 1: 1},
        num_exit_tests=0,
    )


def run(
    guard: NeverSlowerGuard, record_of: Callable[..., StepRecord], accepted: int, num_tokens: int, costs: CostTable
) -> tuple[float, float]:
    """Modelled seconds of a guarded run, and of plain decoding."""
    context, seconds, plain = 10, 0.0, 0.0
    while context < 10 + num_tokens:
        record = step(record_of, context, accepted, guard.is_paused)
        work = work_vector(record.layer_calls_by_rows, record.head_reads_by_rows, 0, context, 0)
        seconds += float(costs.seconds(work))
        plain += guard.plain_seconds(context) * record.num_emitted
        guard.observe(record)
        context += record.num_emitted
    return seconds, plain


def test_exits_that_are_always_wrong_cost_at_most_the_stated_debt(
    record_of: Callable[..., StepRecord], costs_of: Callable[..., CostTable]
) -> None:
    costs = costs_of()
    guard = NeverSlowerGuard(costs, NUM_LAYERS)
    unguarded = NeverSlowerGuard(costs, NUM_LAYERS, limits=GuardLimits(debt=float("inf")))
    seconds, plain = run(guard, record_of, 0, 2000, costs)
    without, _ = run(unguarded, record_of, 0, 2000, costs)
    limits, pauses = GuardLimits(), guard.num_pauses
    step_loss = without / plain - 1.0  # of one step, in plain tokens
    bound = limits.debt + limits.probe_debt * (pauses - 1) + (step_loss + 1) * pauses
    assert 4 <= pauses <= 10  # growing: 16, 32, 64, ...
    assert (seconds - plain) / guard.plain_seconds(10) <= bound
    assert seconds < 1.03 * plain < without


@pytest.mark.parametrize(("num_tokens", "most"), [(96, 1.10), (128, 1.10), (512, 1.03)])
def test_exits_that_are_always_wrong_cost_short_outputs_little_too(
    num_tokens: int, most: float, record_of: Callable[..., StepRecord], costs_of: Callable[..., CostTable]
) -> None:
    """Every draft nearly triples the cost of its token here."""
    seconds, plain = run(NeverSlowerGuard(costs_of(), NUM_LAYERS), record_of, 0, num_tokens, costs_of())
    assert plain < seconds <= most * plain


def test_text_that_turns_hard_and_easy_again_is_drafted_again(
    record_of: Callable[..., StepRecord], costs_of: Callable[..., CostTable]
) -> None:
    guard = NeverSlowerGuard(costs_of(), NUM_LAYERS)
    easy, _ = run(guard, record_of, WIDTH, 200, costs_of())
    assert guard.num_paused_steps == 0
    run(guard, record_of, 0, 200, costs_of())
    paused = guard.num_paused_steps
    assert guard.num_pauses >= 3 and paused > 150
    again, _ = run(guard, record_of, WIDTH, 600, costs_of())
    assert not guard.is_paused
    assert guard.num_paused_steps - paused <= 128  # what was left of the last pause: no longer than the hard text
    assert again < 3 * easy + 128 * guard.plain_seconds(10)


def test_good_speculation_is_never_paused(
    record_of: Callable[..., StepRecord], costs_of: Callable[..., CostTable]
) -> None:
    guard = NeverSlowerGuard(costs_of(), NUM_LAYERS)
    seconds, plain = run(guard, record_of, WIDTH, 500, costs_of())
    assert guard.num_pauses == guard.num_paused_steps == 0 and seconds < plain


def test_probe_that_pays_reopens_for_good(
    record_of: Callable[..., StepRecord], costs_of: Callable[..., CostTable]
) -> None:
    guard = NeverSlowerGuard(costs_of(), NUM_LAYERS)
    run(guard, record_of, 0, 200, costs_of())
    paused = guard.num_pauses
    run(guard, record_of, WIDTH, 1500, costs_of())
    assert guard.num_pauses == paused and not guard.is_paused
    closed_again = NeverSlowerGuard(costs_of(), NUM_LAYERS)
    run(closed_again, record_of, 0, 30, costs_of())
    assert closed_again.is_paused


def test_pauses_are_counted_and_survive_a_reset(
    record_of: Callable[..., StepRecord], costs_of: Callable[..., CostTable]
) -> None:
    guard = NeverSlowerGuard(costs_of(), NUM_LAYERS)
    run(guard, record_of, 0, 60, costs_of())
    counts = guard.num_pauses, guard.num_paused_steps
    assert counts[0] >= 1 and counts[1] >= 1
    guard.reset()
    assert not guard.is_paused and (guard.num_pauses, guard.num_paused_steps) == counts


def test_steps_that_the_policy_itself_made_plain_pay_for_their_decision(
    record_of: Callable[..., StepRecord], costs_of: Callable[..., CostTable]
) -> None:
    guard = NeverSlowerGuard(costs_of(decision=0.3), NUM_LAYERS)
    for context in range(10, 2010):
        guard.observe(step(record_of, context, 0, is_plain=True))
    free = NeverSlowerGuard(costs_of(decision=0.3), NUM_LAYERS, is_adaptive=False)
    for context in range(10, 2010):
        free.observe(step(record_of, context, 0, is_plain=True))
    assert guard.num_pauses > 0 and free.num_pauses == 0


def test_guard_is_deterministic(record_of: Callable[..., StepRecord], costs_of: Callable[..., CostTable]) -> None:
    results = [run(NeverSlowerGuard(costs_of(), NUM_LAYERS), record_of, 1, 300, costs_of()) for _ in range(2)]
    assert results[0] == results[1]


def test_plain_seconds_grow_with_the_context(costs_of: Callable[..., CostTable]) -> None:
    guard = NeverSlowerGuard(costs_of(head=2.0, per_context=1e-3), NUM_LAYERS)
    assert guard.plain_seconds(0) == pytest.approx(14e-3)
    assert guard.plain_seconds(1000) == pytest.approx(14e-3 + 12 * 1e-3)


def test_price_of_one_step_is_that_of_its_work(
    record_of: Callable[..., StepRecord], costs_of: Callable[..., CostTable]
) -> None:
    costs = costs_of(per_context=1e-4)
    for record in (step(record_of, 70, 2, is_plain=False), step(record_of, 9, 0, is_plain=True)):
        for is_adaptive in (False, True):
            wanted = costs.seconds(record_work(record, is_adaptive))
            assert step_seconds(record, StepPrices(costs), is_adaptive) == pytest.approx(float(wanted))
