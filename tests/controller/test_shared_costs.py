"""Prices of one of several sequences, and what guards and policies make of them."""

import numpy as np
import pytest

from specbound_controller.costs import ROW_KNOTS, WORK_NAMES, CostTable, work_vector
from specbound_controller.guarded import GuardedPolicy
from specbound_controller.policy import StaticPolicy
from specbound_controller.records import StepRecord

# a call on n rows takes 1 ms up to 4 rows and n / 4 ms beyond
PRICES = {f"layer_calls_rows_{n}": 1e-3 * max(1.0, n / 4) for n in ROW_KNOTS}
TABLE = CostTable({**dict.fromkeys(WORK_NAMES, 0.0), **PRICES, "steps": 4e-3}, "none", "here", 0.0, 30)


@pytest.mark.parametrize("num_rows", [2, 3, 4, 8])
@pytest.mark.parametrize("rows", [1, 2, 4, 8])
def test_row_pays_its_part_of_the_joint_call(num_rows: int, rows: int) -> None:
    own = TABLE.shared(num_rows).seconds(work_vector({rows: 5}, {}, 0, 0, num_decisions=0))
    together = TABLE.seconds(work_vector({num_rows * rows: 5}, {}, 0, 0, num_decisions=0))
    assert own == pytest.approx(together / num_rows)


def test_line_goes_on_beyond_the_last_knot() -> None:
    assert TABLE.shared(4).coefficients["layer_calls_rows_64"] == pytest.approx(1e-3 * 256 / 4 / 4)


def step(num_accepted: int) -> StepRecord:
    """A draft of three tokens at exit 1 of 4 layers."""
    return StepRecord(
        context_length=10,
        num_drafted=3,
        num_accepted=num_accepted,
        num_emitted=num_accepted + 1,
        exit_layers=(1,) * 3,
        scores=(1.0,) * 3,
        confidences=(1.0,) * 3,
        entropies_nats=(0.0,) * 3,
        stop_reason="width",
        layer_calls_by_rows={1: 4, 4: 3},
        head_reads_by_rows={},
        num_exit_tests=0,
        full_confidence=np.nan,
        full_entropy_nats=np.nan,
        full_margin=np.nan,
        seconds=0.0,
        num_learned_scores=0,
    )


def test_draft_that_pays_alone_is_paused_in_a_batch() -> None:
    alone, shared = (GuardedPolicy(StaticPolicy((1,), 0.0, w_max=3), TABLE, 4) for _ in range(2))
    shared.share(8)
    for policy in (alone, shared):
        for _ in range(40):
            policy.decide(None)
            policy.observe(step(1))
    assert alone.guard.num_pauses == 0
    assert shared.guard.num_pauses > 0 and shared.decide(None).w_max == 0


def test_books_are_kept_apart_and_begin_anew_with_a_prompt() -> None:
    import copy

    policy = GuardedPolicy(StaticPolicy((1,), 0.0, w_max=3), TABLE, 4)
    twin = copy.deepcopy(policy)
    for _ in range(40):
        twin.observe(step(0))
    assert twin.decide(None).w_max == 0 and policy.decide(None).w_max == 3
    twin.reset()
    assert twin.decide(None).w_max == 3
