"""Corrections of the step policy's choice: what whole replays say against what a network believes."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from specbound_controller.actions import PLAIN, Action
from specbound_controller.config import ControllerConfig
from specbound_controller.controller import Controller, Sample
from specbound_controller.costs import CostTable
from specbound_controller.features import FEATURE_NAMES
from specbound_controller.mlp import Mlp
from specbound_controller.score import SIGNAL_NAMES
from specbound_controller.step_policy import CurveLayout
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.replay.replay import replay
from specbound_train.data import LevelData
from specbound_train.policy_search import search_corrections

EXITS, NUM_LAYERS = (2, 4), 12
GOOD, BAD = Action(2, 1), Action(4, 4)


def believing(hazards: dict[Action, float]) -> Controller:
    """A controller that expects each kind of action's drafts to be accepted so often, whatever the step."""
    actions = (PLAIN, *hazards)
    layout, size = CurveLayout(actions), len(FEATURE_NAMES)
    believed = {layout.profile_of(action): value for action, value in hazards.items()}
    logits = [np.log(believed[i] / (1 - believed[i])) for i in range(len(believed)) for _ in range(layout.longest)]

    def zeros(*shape: int) -> np.ndarray:
        return np.zeros(shape, np.float32)

    config = ControllerConfig(EXITS, NUM_LAYERS, "f", ("none",), actions, 0.0, (1.0, 1.0), (0.0, 0.0))
    step_mlp = Mlp(zeros(1, size), zeros(1), zeros(len(logits), 1), np.array(logits, np.float32))
    inputs = len(SIGNAL_NAMES) + len(EXITS) + size
    score_mlp = Mlp(zeros(1, inputs), zeros(1), zeros(1, 1), zeros(1))
    return Controller(config, score_mlp, step_mlp, Sample(np.ones((1, size), np.float32), np.ones(1, np.float32)))


def level(traces: Sequence[PromptTrace], costs: CostTable, temperature: float = 0.0) -> LevelData:
    traces = [replace(trace, sampling_temperature=temperature) for trace in traces]
    return LevelData("none", costs, tuple(traces), np.arange(len(traces)) % 2, (), temperature)


def test_a_belief_that_replay_refutes_is_corrected(
    traces_of: Callable[..., list[PromptTrace]], costs_of: Callable[..., CostTable]
) -> None:
    costs, data = costs_of(), level(traces_of(3, 12, 40), costs_of())
    controller = believing({GOOD: 0.55, BAD: 0.8})
    found = search_corrections([data], [controller, controller], NUM_LAYERS, seed=0)
    assert set(found) == {"none greedy"} and len(found["none greedy"]) == 3

    def speed(policy: object) -> float:
        result = replay(data.training, policy, costs, NUM_LAYERS, "none")  # type: ignore[arg-type]
        return float(result.num_tokens.sum() / result.seconds.sum())

    before = controller.policy(costs, "none", guard=False)
    after = before.corrected("greedy", np.array(found["none greedy"]))
    assert controller.config.actions[before.best_action(np.ones(len(FEATURE_NAMES), np.float32))] == BAD
    assert speed(after) > 1.05 * speed(before)
    sampled = np.ones(len(FEATURE_NAMES), np.float32)
    greedy = sampled.copy()
    greedy[FEATURE_NAMES.index("sampling_temperature")] = 0.0
    for features, policy in ((sampled, before), (greedy, after)):  # sampled text keeps the belief
        assert after.best_action(features) == policy.best_action(features) == after.best_actions(features[None])[0]
    assert after.best_action(greedy) != before.best_action(greedy)


def test_the_same_seed_gives_the_same_corrections_and_every_kind_of_text_its_own(
    traces_of: Callable[..., list[PromptTrace]], costs_of: Callable[..., CostTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("specbound_train.policy_search.NUM_ITERATIONS", 2)
    costs = costs_of()
    levels = [level(traces_of(4, 8, 30), costs), level(traces_of(5, 8, 30), costs, temperature=0.7)]
    controller = believing({GOOD: 0.55, BAD: 0.8})
    found = [search_corrections(levels, [controller, controller], NUM_LAYERS, seed) for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]
    assert set(found[0]) == {"none greedy", "none sampled"} and found[0]["none greedy"] != found[0]["none sampled"]


def test_corrections_that_do_not_help_are_not_kept(
    traces_of: Callable[..., list[PromptTrace]], costs_of: Callable[..., CostTable]
) -> None:
    """With one way to draft, and drafting always right to choose, there is nothing to correct."""
    controller = believing({GOOD: 0.9})
    found = search_corrections([level(traces_of(6, 6, 30), costs_of())], [controller] * 2, NUM_LAYERS, seed=0)
    assert found == {}


@pytest.mark.parametrize(
    "corrections",
    [{"none greedy": (0.1,)}, {"none beam": (0.0,) * 3}, {"int8 greedy": (0.0,) * 3}, {"none greedy": (0.0, 2e6, 0.0)}],
)
def test_corrections_of_another_grid_are_refused(corrections: dict[str, tuple[float, ...]]) -> None:
    actions = (PLAIN, GOOD, BAD)
    with pytest.raises(ValueError, match="corrections must be"):
        ControllerConfig(
            EXITS, NUM_LAYERS, "f", ("none",), actions, 0.0, (1.0, 1.0), (0.0, 0.0), corrections=corrections
        )
