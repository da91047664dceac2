"""The action grid and its decisions."""

import pytest

from specbound_controller.actions import PLAIN, Action, action_grid, static_grid
from specbound_controller.policy import AnnealedConfidence


def test_grid_holds_every_combination_once_and_plain_first() -> None:
    grid = action_grid((4, 2), (1, 3), (0.5,))
    assert [action.name for action in grid] == [
        "plain",
        "exit2_width1",
        "exit2_width3",
        "exit2_width1_learned0.5",
        "exit2_width3_learned0.5",
        "exit4_width1",
        "exit4_width3",
        "exit4_width1_learned0.5",
        "exit4_width3_learned0.5",
    ]


def test_static_grid_has_distinct_names_and_needs_no_learned_score() -> None:
    grid = static_grid((2, 3))
    assert len({action.name for action in grid}) == len(grid)
    assert {action.score for action in grid} == {"fixed", "annealed"}
    assert grid[0] == PLAIN


def test_decisions_say_what_the_action_says() -> None:
    score = AnnealedConfidence(0.5)
    assert PLAIN.decision({}).w_max == 0
    fixed = Action(3, 4).decision({})
    assert fixed.exits() == ((3, 0.0),) and fixed.w_max == 4 and fixed.score is None
    tested = Action(3, 4, 0.5, "annealed", "token").decision({"annealed": score})
    assert tested.exits() == ((3, 0.5),) and tested.score is score and tested.combine == "token"


@pytest.mark.parametrize(
    "fields",
    [
        {"exit_layer": 0, "width": 2},
        {"exit_layer": 2, "width": 0},
        {"exit_layer": 2, "width": -1},
        {"exit_layer": 2, "width": 2, "threshold": 0.5},
        {"exit_layer": 2, "width": 2, "threshold": 1.5, "score": "learned"},
        {"exit_layer": 2, "width": 2, "threshold": float("nan"), "score": "learned"},
        {"exit_layer": 2, "width": 2, "score": "oracle"},
        {"exit_layer": 2, "width": 2, "combine": "sum"},
    ],
)
def test_contradictory_actions_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must"):
        Action(**fields)  # type: ignore[arg-type]
