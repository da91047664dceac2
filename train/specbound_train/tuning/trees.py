"""Chooses the constants of draft trees on the prompts of a log, with at most as many tries as best static has.

A priced tree's nodes must pay at the speed that the policy itself reaches: found by Dinkelbach's iteration, replaying
at the last speed until it is stable.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

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


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Some prompts, and what their trees draw from and are scored by."""

    traces: Sequence[PromptTrace]
    sources: TreeSources
    memo: TreeMemo
    """Of these traces."""


def tune_trees(
    traces: Sequence[PromptTrace],
    sources: TreeSources,
    costs: CostTable,
    num_layers: int,
    say: Say,
    names: Sequence[str] = TUNED_TREES,
) -> dict[str, TunedTree]:
    """The fastest settings of some rules by replay. traces: each of more than one position."""
    chosen = some_prompts(traces)
    part, found = Part(chosen, sources, TreeMemo(chosen)), {}
    for name in names:
        say(name)
        found[name] = tune_tree(name, [part], costs, num_layers)
    return found


def tune_tree(name: str, parts: Sequence[Part], costs: CostTable, num_layers: int) -> TunedTree:
    """The fastest settings of one rule by replay on all parts together."""
    traces = [trace for part in parts for trace in part.traces]
    plain_s = float(replay(traces, StaticPolicy(()), costs, num_layers, "none").seconds.sum())

    def speedup(settings: TreeSettings) -> float:
        plans = [settings.plan(part.sources, costs, num_layers) for part in parts]
        results = [
            replay_plan(part.traces, plan, costs, num_layers, part.memo)
            for part, plan in zip(parts, plans, strict=True)
        ]
        return plain_s / sum(float(result.seconds.sum()) for result in results)

    tried = [pair for each in candidates(name) for pair in _tried(each, speedup)]
    best, reached = max(reversed(tried), key=lambda pair: pair[1])  # of equals the last: where the iteration stands
    return TunedTree(best, reached * sum(trace.num_positions - 1 for trace in traces) / plain_s, len(tried))


def _tried(settings: TreeSettings, speedup: Callable[[TreeSettings], float]) -> list[tuple[TreeSettings, float]]:
    """A setting with its speed over plain decoding; of a priced one each round of the iteration."""
    tried = [(settings, speedup(settings))]
    while settings.speedup > 0 and len(tried) < NUM_ROUNDS:
        settings = replace(settings, speedup=tried[-1][1])
        if abs(settings.speedup / tried[-1][0].speedup - 1.0) < STABLE:
            break
        tried.append((settings, speedup(settings)))
    return tried


def some_prompts(traces: Sequence[PromptTrace]) -> list[PromptTrace]:
    """Prompts of all kinds alike, until `MOST_POSITIONS` stand."""
    chosen: list[PromptTrace] = []
    for index in spread([trace.task for trace in traces], len(traces)):
        if chosen and sum(trace.num_positions for trace in chosen) >= MOST_POSITIONS:
            break
        chosen.append(traces[index])
    return chosen
