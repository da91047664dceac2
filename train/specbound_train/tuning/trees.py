"""Chooses the constants of draft trees on the prompts of a log, with at most as many tries as best static has.

A priced tree's nodes must pay at the speed that the policy itself reaches: found by Dinkelbach's iteration, replaying
at the last speed until it is stable.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from specbound_controller.baselines.tuned import TunedTree
from specbound_controller.costs import CostTable
from specbound_controller.policy import StaticPolicy
from specbound_controller.trees.names import TUNED_TREES
from specbound_controller.trees.settings import TreeSettings, TreeSources, candidates
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.prompts.files import spread
from specbound_profiling.replay.replay import replay
from specbound_profiling.replay.tree_steps import TreeMemo, replay_plan

MOST_POSITIONS = 3_000
"""Positions that trees are tuned on: prompts of all kinds alike, until so many stand."""
STABLE = 0.002
"""Relative change of the speed below which Dinkelbach's iteration ends."""
NUM_ROUNDS = 6

Say = Callable[[str], None]


def tune_trees(
    traces: Sequence[PromptTrace], sources: TreeSources, costs: CostTable, num_layers: int, say: Say
) -> dict[str, TunedTree]:
    """The fastest settings of every rule by replay. traces: each of more than one position."""
    chosen = _some(traces)
    memo = TreeMemo(chosen)
    plain_s = float(replay(chosen, StaticPolicy(()), costs, num_layers, "none").seconds.sum())

    def speedup(settings: TreeSettings) -> float:
        plan = settings.plan(sources, costs, num_layers)
        return plain_s / float(replay_plan(chosen, plan, costs, num_layers, memo).seconds.sum())

    num_tokens = sum(trace.num_positions - 1 for trace in chosen)
    found = {}
    for name in TUNED_TREES:
        say(name)
        tried = [pair for each in candidates(name) for pair in _tried(each, speedup)]
        best, reached = max(reversed(tried), key=lambda pair: pair[1])  # of equals the last: where the iteration stands
        found[name] = TunedTree(best, reached * num_tokens / plain_s, len(tried))
    return found


def _tried(settings: TreeSettings, speedup: Callable[[TreeSettings], float]) -> list[tuple[TreeSettings, float]]:
    """A setting with its speed over plain decoding; of a priced one each round of the iteration."""
    tried = [(settings, speedup(settings))]
    while settings.speedup > 0 and len(tried) < NUM_ROUNDS:
        settings = replace(settings, speedup=tried[-1][1])
        if abs(settings.speedup / tried[-1][0].speedup - 1.0) < STABLE:
            break
        tried.append((settings, speedup(settings)))
    return tried


def _some(traces: Sequence[PromptTrace]) -> list[PromptTrace]:
    chosen: list[PromptTrace] = []
    for index in spread([trace.task for trace in traces], len(traces)):
        if chosen and sum(trace.num_positions for trace in chosen) >= MOST_POSITIONS:
            break
        chosen.append(traces[index])
    return chosen
