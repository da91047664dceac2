"""How fast replay and the oracles are: the measurement `python -m specbound.bench.micro replay`, on made-up traces."""

import time
from collections.abc import Callable
from functools import partial

from specbound.models.controllers import load_controller
from specbound_controller.actions import static_grid
from specbound_controller.errors import InputError
from specbound_controller.policy import AnnealedConfidence, Policy, StaticPolicy, decides_in_batches
from specbound_profiling.log.synthetic import synthetic_traces
from specbound_profiling.replay.oracle import oracle, oracle_grid
from specbound_profiling.replay.random_policy import RandomChoice
from specbound_profiling.replay.replay import replay as replay_all
from specbound_profiling.replay.replay import replay_stepwise
from specbound_profiling.replay.result import ReplayResult

ORACLE_WIDTH = 8
"""Longest draft of the oracle."""


def replay(
    controller: str = "demo", num_prompts: int = 1000, num_positions: int = 100, stepwise_share: int = 20
) -> None:
    """Simulated steps per second, all prompts at once and step by step, and how long the oracles take.

    Processor seconds of one thread. stepwise_share: one in so many prompts is replayed step by step.
    """
    chosen = load_controller(controller)
    if chosen is None:
        raise InputError("controller must be demo or a folder, got none")
    exits, num_layers, costs = chosen.config.exit_layers, chosen.config.num_layers, chosen.config.costs["none"]
    traces = synthetic_traces(num_prompts, num_positions, exits)
    grid = [action.decision({"annealed": AnnealedConfidence(0.0)}) for action in static_grid(exits)]
    policies: dict[str, Policy] = {
        "controller, with its guard": chosen.policy(costs, "none"),
        "controller, without": chosen.policy(costs, "none", guard=False),
        "static, one exit": StaticPolicy(exits[:1], 0.5, 6),
        "static, two exits": StaticPolicy(exits[:2], 0.5, 6),
        "random": RandomChoice(grid, 0),
    }
    print(f"{num_prompts * num_positions:,} positions of {num_prompts} prompts\n")
    print("| policy | all prompts at once | step by step |\n|---|---|---|")
    few = traces[::stepwise_share]
    for name, policy in policies.items():
        at_once = "–"
        if decides_in_batches(policy):
            at_once = _speed(partial(replay_all, traces, policy, costs, num_layers, "none"))
        alone = _speed(partial(replay_stepwise, few, policy, costs, num_layers, "none"))
        print(f"| {name} | {at_once} | {alone} |", flush=True)
    print("\n| limit | seconds |\n|---|---|")
    started = time.process_time()
    oracle(traces, costs, num_layers, ORACLE_WIDTH)
    print(f"| oracle, drafts up to {ORACLE_WIDTH} | {time.process_time() - started:.1f} |", flush=True)
    started = time.process_time()
    oracle_grid(traces, costs, num_layers, grid)
    print(f"| oracle_grid, {len(grid)} actions | {time.process_time() - started:.1f} |")


def _speed(call: Callable[[], ReplayResult]) -> str:
    started = time.process_time()
    num_steps = int(call().num_steps.sum())
    return f"{num_steps / (time.process_time() - started):,.0f} steps/s"
