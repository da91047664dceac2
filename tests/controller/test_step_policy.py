"""The step policy: expected tokens and work by hand, prices, the choice and its long-run speed."""

from collections.abc import Callable

import numpy as np
import pytest

from specbound_controller.actions import PLAIN, Action, action_grid
from specbound_controller.costs import WORK_NAMES, CostTable
from specbound_controller.features import FEATURE_NAMES
from specbound_controller.mlp import Mlp
from specbound_controller.step_policy import CurveLayout, StepPolicy, choose, solve_rho
from specbound_controller.work import single_exit_work

NUM_LAYERS = 12


def constant_policy(actions: tuple[Action, ...], hazards: np.ndarray) -> StepPolicy:
    """Predicts the same hazards in every step. hazards: (curves, J)"""
    inputs = len(FEATURE_NAMES)
    bias = np.log(hazards / (1 - hazards)).astype(np.float32).ravel()
    zeros = (np.zeros((4, inputs), np.float32), np.zeros(4, np.float32), np.zeros((len(bias), 4), np.float32))
    return StepPolicy(Mlp(*zeros, bias), actions)


def test_work_of_a_failed_and_of_a_full_draft_by_hand() -> None:
    names = dict(zip(WORK_NAMES, single_exit_work(3, 12, 2, 3, True, 100), strict=True))
    assert names["layer_calls_rows_1"] == 9  # three tokens through layers 0..2
    assert names["layer_calls_rows_3"] == 9  # three rows through layers 3..11
    assert names["head_reads"] == 4 and names["head_rows"] == 6
    assert names["exit_tests"] == 4  # three drafts were tested, and the full model's signals taken
    assert names["learned_scores"] == 0
    assert single_exit_work(3, 12, 2, 3, True, 100, is_learned=True)[WORK_NAMES.index("learned_scores")] == 3
    assert names["layer_rows_times_context"] == pytest.approx((9 + 27) * 0.1)
    full = dict(zip(WORK_NAMES, single_exit_work(3, 12, 2, 2, False, 0), strict=True))
    assert full["head_reads"] == 3 and full["exit_tests"] == 1 and full["steps"] == full["decisions"] == 1
    plain = dict(zip(WORK_NAMES, single_exit_work(0, 12, 0, 0, False, 0), strict=True))
    assert plain["layer_calls_rows_1"] == 12 and plain["head_reads"] == 1


def test_expected_tokens_and_seconds_equal_hand_computation(costs_of: Callable[..., CostTable]) -> None:
    actions = (PLAIN, Action(2, 1), Action(2, 2), Action(2, 2, 0.5, "learned"))
    hazards = np.array([[0.8, 0.5], [0.7, 0.6], [0.9, 0.4]])  # accepted fixed, accepted tested, drafted tested
    policy = constant_policy(actions, hazards)
    features = np.zeros(len(FEATURE_NAMES), dtype=np.float32)
    wanted = [[1, 0.8, 0.4], [1, 0.7, 0.42], [1, 0.9, 0.36]]
    np.testing.assert_allclose(policy.curves(features), wanted, rtol=1e-6)
    costs = costs_of(per_context=1e-4)
    emitted, seconds = policy.table(features, np.array(50.0), costs, NUM_LAYERS)
    np.testing.assert_allclose(emitted, [1, 1.8, 2.2, 2.12], rtol=1e-6)
    outcomes = ((0.1, 0, 1), (0.54, 1, 2), (0.36, 2, 2))  # probability, drafted, reads
    tested = sum(p * single_exit_work(2, NUM_LAYERS, drafted, reads, True, 50, True) for p, drafted, reads in outcomes)
    work = [single_exit_work(*step, False, 50) for step in ((0, 12, 0, 0), (2, 12, 1, 1), (2, 12, 2, 2))]
    np.testing.assert_allclose(seconds, costs.seconds(np.array([*work, tested])), rtol=1e-5)


def test_table_of_many_steps_is_that_of_each(costs_of: Callable[..., CostTable]) -> None:
    actions = action_grid((0, 2, 4), (1, 2, 4), (0.5,))
    rng = np.random.default_rng(0)
    layout = CurveLayout(actions)
    policy = constant_policy(actions, rng.uniform(0.2, 0.9, size=(layout.num_curves, layout.longest)))
    costs = costs_of(per_context=1e-4)
    features = np.zeros((3, len(FEATURE_NAMES)), dtype=np.float32)
    emitted, seconds = policy.table(features, np.array([10.0, 10.0, 400.0]), costs, NUM_LAYERS)
    one = policy.table(features[0], np.array(400.0), costs, NUM_LAYERS)
    np.testing.assert_allclose((emitted[2], seconds[2]), one, rtol=1e-6)
    np.testing.assert_array_equal(seconds[0], seconds[1])
    assert (emitted[:, 0] == 1.0).all() and (emitted >= 1.0).all()


def test_layout_of_the_outputs_has_one_curve_per_profile_and_one_more_per_threshold() -> None:
    layout = CurveLayout(action_grid((2, 3), (1, 4), (0.3, 0.6)))
    assert len(layout.profiles) == 6 and layout.num_curves == 10 and layout.num_outputs == 40
    assert [layout.drafted_curve(profile) for profile in range(6)] == [None, None, 6, 7, 8, 9]
    assert all(layout.run_curve(profile) is None for profile in range(6))
    looking_up = CurveLayout(action_grid((0, 2), (1, 4), (0.3,), lookup_first=((0.5, 0.4), (0.6, 0.4))))
    assert [profile.name for profile in looking_up.profiles] == [
        "exit2_width1",
        "lookup_width1_learned0.3",
        "exit2_width1_learned0.3",
        "lookup0.5_exit2_width1_learned0.4_token",
        "lookup0.6_exit2_width1_learned0.4_token",
    ]
    assert [looking_up.drafted_curve(profile) for profile in range(5)] == [None, 5, 6, 7, 8]
    assert [looking_up.run_curve(profile) for profile in range(5)] == [None, None, None, 9, 10]
    assert looking_up.num_outputs == 11 * 4


def test_seconds_of_a_lookup_before_an_exit_equal_the_work_of_every_way_that_the_step_can_go(
    costs_of: Callable[..., CostTable],
) -> None:
    """Width 2, every row of a layer call as dear as every other, so that splitting a call costs its first row."""
    action = Action(3, 2, 0.5, "learned", "token", lookup_threshold=0.6)
    drafted, run = (0.9, 0.4), (0.7, 0.2)
    policy = constant_policy((PLAIN, action), np.array([[0.5, 0.3], drafted, run]))
    costs = costs_of(row_slope=0.25, head=2.0, per_context=1e-4)
    _, seconds = policy.table(np.zeros(len(FEATURE_NAMES), np.float32), np.array(50.0), costs, NUM_LAYERS)
    unit = 1e-3

    def step(rows_run: list[int], num_drafted: int) -> float:
        """rows_run: pending tokens of each run of the exit."""
        rows = num_drafted + 1
        left = rows - sum(rows_run)
        shallow = sum(3 * (1 + 0.25 * (k - 1)) for k in [*rows_run, *([left] if left else [])])
        heads = 2.0 * (len(rows_run) + 1)
        return unit * (shallow + 9 * (1 + 0.25 * (rows - 1)) + heads) + 12 * rows * 1e-4 * 50 / 1000

    # the exit is run for a draft with probability `run`; a draft that ends early has always run it
    ways = (
        (0.1, [1], 0),  # run, failed
        (0.9 * 0.6 * 0.5, [1, 1], 1),
        (0.9 * 0.6 * 0.5, [2], 1),
        (0.9 * 0.4, [], 2),
    )
    early = 0.1 + 0.9 * 0.6
    mean_runs = run[0] + 0.9 * run[1]
    shallow_split = unit * 3 * (1 - 0.25)
    pieces = sum(share * step([], count) for share, _, count in ways)
    wanted = pieces + mean_runs * (shallow_split + 2.0 * unit) - early * shallow_split
    assert seconds[1] == pytest.approx(wanted, rel=1e-6)
    for runs, count in (([1], 0), ([2], 1), ([1, 1], 1)):
        split = step([], count) + len(runs) * (shallow_split + 2.0 * unit) - shallow_split
        assert step(runs, count) == pytest.approx(split, rel=1e-6)


def test_perceptron_of_the_wrong_size_is_refused(mlp_of: Callable[..., Mlp]) -> None:
    with pytest.raises(ValueError, match="the step policy must map"):
        StepPolicy(mlp_of(np.random.default_rng(0), len(FEATURE_NAMES), 4, 7), action_grid((2,), (1,), ()))


def test_long_run_speed_is_that_of_the_best_choice_function() -> None:
    rng = np.random.default_rng(0)
    emitted, seconds = 1 + rng.random((4, 3)), 0.5 + rng.random((4, 3))
    weights = rng.random(4) + 0.1
    rows = np.arange(4)
    speeds = [
        (weights @ emitted[rows, choice]) / (weights @ seconds[rows, choice])
        for choice in np.array(np.meshgrid(*[range(3)] * 4)).reshape(4, -1).T
    ]
    rho = solve_rho(emitted, seconds, weights)
    assert rho == pytest.approx(max(speeds))
    best = choose(emitted, seconds, rho)
    assert (weights @ emitted[rows, best]) / (weights @ seconds[rows, best]) == pytest.approx(rho)


def test_ratio_per_step_is_not_the_objective() -> None:
    """A step may take a worse ratio of its own where that is better in the long run."""
    emitted = np.array([[1.0, 1.9], [5.0, 5.0]])
    seconds = np.array([[1.0, 2.0], [1.0, 1.0]])
    rho = solve_rho(emitted, seconds, np.ones(2))
    assert choose(emitted, seconds, rho)[0] == 0 and rho == pytest.approx(3.0)


def test_same_predictions_at_other_costs_choose_other_widths(costs_of: Callable[..., CostTable]) -> None:
    actions = action_grid((2,), (1, 2, 4, 8), ())
    policy = constant_policy(actions, np.full((1, 8), 0.85))
    features, contexts = np.zeros((1, len(FEATURE_NAMES)), dtype=np.float32), np.array([10.0])
    widths = []
    for row_slope, head in ((0.0, 0.1), (0.3, 1.0), (1.5, 4.0)):  # rows are free, dear, dearer than they can save
        emitted, seconds = policy.table(features, contexts, costs_of(row_slope, head), NUM_LAYERS)
        rho = solve_rho(emitted, seconds, np.ones(1))
        widths.append(actions[int(choose(emitted, seconds, rho)[0])].width)
    assert widths[0] > widths[1] > widths[2] == 0
