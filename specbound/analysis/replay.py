"""What policies would have done on a log, and the best that any could do: what `specbound replay` does.

Knows no command line. Nothing here decodes but what `specbound.analysis.live` is asked to.
"""

# B prompts, A actions

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from specbound.analysis.live import LiveItem, compare_live
from specbound.analysis.logged import check_exits, load_logged
from specbound.analysis.replay_config import ReplayConfig
from specbound.models.controllers import load_controller
from specbound.models.names import chosen_controller
from specbound.policies import CONTROLLER_NAMES, TunedPolicies, controller_policy, static_policy
from specbound.pricing.local import given_costs, local_costs
from specbound.results.report import logged_model
from specbound.results.rows import Row, shown
from specbound.stores.trees import MOST_NODES, TreeSituation, tree_policy
from specbound_controller.actions import WIDTHS, Action, static_grid
from specbound_controller.controller import Controller
from specbound_controller.costs import CostTable
from specbound_controller.errors import InputError, MissingExtraError
from specbound_controller.figures import DASH, number, share
from specbound_controller.policy import AnnealedConfidence, Policy, StaticPolicy
from specbound_controller.policy_names import is_written_out, written_out
from specbound_controller.records import Decision
from specbound_controller.trees.names import (
    BEST_TREE,
    FREE_ENTRANTS,
    LEARNED_TREE,
    TUNED_TREES,
    drafts_trees,
    is_tree_name,
)
from specbound_controller.trees.plan import TreePlan
from specbound_profiling.costs.machine import machine_fingerprint
from specbound_profiling.log.store import StepLog, open_log
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.replay.best_static import static_seconds
from specbound_profiling.replay.bootstrap import bootstrap_ratio
from specbound_profiling.replay.oracle import TreeRuns, oracle, oracle_grid
from specbound_profiling.replay.random_policy import RandomChoice
from specbound_profiling.replay.replay import replay
from specbound_profiling.replay.result import ReplayResult, concatenated
from specbound_profiling.replay.tree_steps import tree_runs

CHUNK_POSITIONS = 50_000
"""Positions of a log that are held in memory together."""

TREE_ORACLE = "oracle_tree"
"""The limit of draft trees; a log of schema 3 has what it needs."""
ORACLES = ("oracle_grid", "oracle", TREE_ORACLE)
"""Clairvoyant, so replayed only."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ReplayedRow(Row):
    """A row of a report, and what only a replay can say."""

    tokens_per_step: float = shown("tokens\na step", lambda row: number(row.tokens_per_step, 2))
    acceptance_rate: float = shown("accept.\nrate", lambda row: number(row.acceptance_rate, 2))
    layer_calls_per_token: float = shown("layers\nper token", lambda row: number(row.layer_calls_per_token, 1))
    outputs_equal: bool | None = None
    """None: nothing is decoded."""
    share_of_oracle_gain: float = shown(
        "oracle's\ngain", lambda row: "–" if row.method == "plain" else share(row.share_of_oracle_gain)
    )
    """(speedup - 1) over (the oracle's speedup - 1); where trees are among the policies, the oracle of trees."""
    estimated_share: float = shown("estimated\n± s.e.", lambda row: estimate(row), 0.0)
    """Share of the modelled seconds that is an estimate: work after a wrong draft that no roll-out followed."""
    estimated_share_error: float = 0.0
    """Its standard error, from the roll-outs that there are; nan where there are too few."""


def estimate(row: ReplayedRow) -> str:
    """Estimated share of the seconds with its standard error; 0 where a replay is exact."""
    if row.estimated_share == 0:
        return "0"
    if math.isnan(row.estimated_share):
        return DASH
    error = row.estimated_share_error
    return f"{100 * row.estimated_share:.1f}±{'?' if math.isnan(error) else f'{100 * error:.1f}'}%"


@dataclass(slots=True)
class Replay:
    """The tables, and what has to be said beside them."""

    model: dict[str, Any]
    rows: list[ReplayedRow] = field(default_factory=list)
    """By compression level and kind of content, totals last; within it the policies as asked for."""
    live: list[LiveItem] = field(default_factory=list)
    """Replayed against live, where that was asked for."""
    notes: list[str] = field(default_factory=list)
    """One line each."""
    num_bugs: int = 0
    """Live outputs that are not the log's, and that rounding does not explain."""


@dataclass(frozen=True, eq=False)
class Level:
    """One compression level of a log, and what its policies are made of."""

    config: ReplayConfig
    log: StepLog
    compression: str
    costs: CostTable
    controller: Controller | None
    tuned: TunedPolicies | None

    @property
    def num_layers(self) -> int:
        return self.log.manifest.num_layers

    def chunks(self) -> Iterator[list[PromptTrace]]:
        """The traces, many at a time, so that memory does not grow with the log."""
        traces: list[PromptTrace] = []
        for shard in self.log.iter_shards(self.compression):
            traces += shard
            if sum(trace.num_positions for trace in traces) >= CHUNK_POSITIONS:
                yield traces
                traces = []
        if traces:
            yield traces

    @cached_property
    def actions(self) -> tuple[Action, ...]:
        """What a user could choose by hand."""
        widths = tuple(width for width in WIDTHS if width <= self.config.w_max)
        return static_grid(self.log.manifest.exit_layers, widths)

    @cached_property
    def grid(self) -> tuple[Decision, ...]:
        return tuple(action.decision({"annealed": AnnealedConfidence(self.config.alpha)}) for action in self.actions)

    @cached_property
    def best_static(self) -> int:
        """Index of the fastest action of the grid on all prompts."""
        seconds = sum(static_seconds(traces, self.costs, self.grid, self.num_layers) for traces in self.chunks())
        return int(np.argmin(seconds))

    @cached_property
    def trees(self) -> TreeSituation:
        """What draft trees of this log need. Raises InputError where the log has no such thing."""
        if not self.log.manifest.stores:
            raise InputError(f"draft trees need a log of schema 3, got an older one ({self.log.root}); profile again")
        stores, counted = self.log.stores()
        return TreeSituation(stores, self.costs, self.num_layers, counted)

    @cached_property
    def best_tree(self) -> str:
        """Name of the fastest fixed tree on all prompts."""
        seconds = dict.fromkeys(FREE_ENTRANTS, 0.0)
        for traces in self.chunks():
            for name in seconds:
                policy = tree_policy(name, self.trees)
                seconds[name] += float(
                    replay(traces, policy, self.costs, self.num_layers, self.compression).seconds.sum()
                )
        return min(seconds, key=seconds.__getitem__)

    def policy(self, name: str) -> Policy:
        """A fresh policy of that name, as the decoder would be given it."""
        config = self.config
        if name == "plain":
            return StaticPolicy(())
        if name == "static":
            return StaticPolicy(config.exit_layers, config.threshold, config.width, config.alpha, None, config.combine)
        if is_written_out(name):
            return written_out(name)
        if name in (*CONTROLLER_NAMES, LEARNED_TREE):
            sources = self.trees.sources if self.log.manifest.stores else None
            return controller_policy(name, self.compression, self.costs, self.controller, sources)
        if name == BEST_TREE:
            return tree_policy(self.best_tree, self.trees)
        if is_tree_name(name):
            return tree_policy(name, self.trees)
        if name in TUNED_TREES:
            assert self.tuned is not None  # the config sees to it
            return self.tuned.tree(name, self.compression, self.costs, self.trees.sources())
        if name == "random":
            return RandomChoice(self.grid, config.seed)
        if self.tuned is not None:
            return self.tuned.policy(name, self.compression, self.costs)
        if name == "best_static":
            return static_policy(self.actions[self.best_static], config.alpha)
        raise AssertionError(f"the config lets no policy {name!r} pass without a file of policies")

    def player(self, name: str) -> Callable[[Sequence[PromptTrace]], ReplayResult]:
        """Replays one policy on some traces after another."""
        if name == "oracle":
            return lambda traces: oracle(traces, self.costs, self.num_layers, self.config.w_max)
        if name == "oracle_grid":
            return lambda traces: oracle_grid(traces, self.costs, self.num_layers, self.grid)
        if name == TREE_ORACLE:
            plan = TreePlan(MOST_NODES, self.trees.rates(), self.trees.stores)
            return lambda traces: self._oracle_tree(traces, plan)
        policy = self.policy(name)
        return lambda traces: replay(traces, policy, self.costs, self.num_layers, self.compression)

    def _oracle_tree(self, traces: Sequence[PromptTrace], plan: TreePlan) -> ReplayResult:
        runs = TreeRuns(tree_runs(traces, plan, self.num_layers), plan.max_nodes)
        return oracle(traces, self.costs, self.num_layers, self.config.w_max, trees=runs)


def replay_log(config: ReplayConfig, say: Say = lambda line: None) -> Replay:
    """Replays every policy at every level; `say` gets a line as each begins. Raises InputError for bad input."""
    assert config.log is not None  # the config checks it
    root = Path(config.log).expanduser()
    log = open_log(root)
    check_exits(log.manifest, config.exits)
    controller = _controller(config, log)
    tuned = _tuned(config, log)
    names = _policies(config, controller, tuned, log)
    for name in (*CONTROLLER_NAMES, LEARNED_TREE):
        if name in names and controller is None:
            raise InputError(f"policy {name} needs --controller, a folder that train-controller wrote")
    result = Replay(logged_model(root))
    for compression in _levels(config, log):
        costs, source = log_costs(config.costs, log, compression, config.exits)
        level = Level(config, log, compression, costs, controller, tuned)
        result.notes.append(f"{compression}: {source}")
        exactness = log.manifest.exactness_of(compression)
        if costs.exactness != exactness:
            result.notes.append(f"{compression}: recorded at exactness {exactness}, priced at {costs.exactness}")
        results = _play(level, names, say)
        result.rows += [row for task in _tasks(results["plain"]) for row in _rows(level, results, names, task)]
        result.notes += _constants(level, names)
        if "best_static" in names and tuned is None:
            result.notes.append(
                f"{compression}: best static, chosen on these same prompts: {level.actions[level.best_static].name}"
            )
        if BEST_TREE in names:
            result.notes.append(f"{compression}: best tree, chosen on these same prompts: {level.best_tree}")
        if any(row.estimated_share > 0 for row in result.rows if row.compression == compression):
            result.notes.append(
                f"{compression}: estimated is work after a wrong draft that no roll-out followed (a share of "
                f"{log.manifest.rollout_rate:g} was); profile with --rollout-rate 1 for exact replays of one exit layer"
            )
        if config.live:
            say(f"{compression}: decoding {config.live} prompts")
            policies = {name: partial(level.policy, name) for name in names if name not in ORACLES}
            compared = compare_live(
                log, compression, costs, config.live, policies, save_steps=config.save_steps, exits=config.exits
            )
            result.live += compared.items
            result.notes += [compared.speed, *compared.differences]
            result.num_bugs += compared.num_bugs
    return result


def log_costs(source: str, log: StepLog, compression: str, exits: str | None = None) -> tuple[CostTable, str]:
    """The cost table of a level, and one line that says which it is.

    source: as in `ReplayConfig.costs`. exits: where the log's trained exits are.
    """
    if source not in ("log", "auto"):
        return given_costs(Path(source).expanduser(), compression), f"costs: from {source}"
    own, exactness = log.costs.get(compression), log.manifest.exactness_of(compression)
    if source == "log":
        if own is None:
            raise InputError(f"log {log.root} holds no cost table for {compression}: give --costs, or profile again")
        return own, f"costs: the log's, measured on {own.machine}; {share(own.held_out_error)} off on other steps"
    loaded = load_logged(log.manifest, compression, exits)
    if own is not None and (own.machine, own.exactness) == (machine_fingerprint(loaded.model.device), exactness):
        return own, "costs: the log's own, from this machine"
    manifest = log.manifest
    local = local_costs(loaded, manifest.model_fingerprint, manifest.exit_layers, exactness, manifest.drafted_tokens())
    if local is None:
        raise MissingExtraError("measuring costs", "profile")
    return local


def _controller(config: ReplayConfig, log: StepLog) -> Controller | None:
    controller = load_controller(chosen_controller(config.controller, log.manifest.model))
    if controller is not None:
        controller.check_model(log.manifest.model_fingerprint, log.manifest.num_layers)
        controller.check_draft_vocabulary(log.manifest.drafted_tokens())
    return controller


def _tuned(config: ReplayConfig, log: StepLog) -> TunedPolicies | None:
    if config.policies is None:
        return None
    tuned = TunedPolicies.load(config.policies)
    tuned.check_model(log.manifest.model_fingerprint, log.manifest.num_layers)
    require_all_tokens(log, "policies")
    tuned.check_exits(log.manifest.exits)
    return tuned


def require_all_tokens(log: StepLog, user: str) -> None:
    """Raises InputError where a log's own exits read a part of the vocabulary: constants of rules say none. Trained
    exits always read the same."""
    vocabulary = log.manifest.drafted_tokens()
    if vocabulary is not None and not vocabulary.exits:
        raise InputError(
            f"{user} needs a log whose exits read all tokens, got one of {vocabulary} ({log.root}); profile without "
            "--draft-vocabulary"
        )


def _constants(level: Level, names: Sequence[str]) -> list[str]:
    """One line for each policy of the file of policies, and one that says what it was tuned on."""
    tuned = level.tuned
    if tuned is None:
        return []
    is_same = tuned.file.prompts_hash == level.log.manifest.prompts_hash
    lines = [f"{level.compression}: policies were tuned on {'these same' if is_same else 'other'} prompts"]
    own = [name for name in names if name in (*tuned.names, *tuned.tree_names) and name != "plain"]
    return lines + [f"{level.compression}: {name}: {tuned.describe(name, level.compression)}" for name in own]


def _levels(config: ReplayConfig, log: StepLog) -> tuple[str, ...]:
    """The compression levels to replay. Raises InputError where one was not recorded."""
    recorded = log.manifest.compressions
    levels = recorded if config.compression == "auto" else config.compression
    for level in levels:
        if level not in recorded:
            raise InputError(f"compression must be one of the log's {', '.join(recorded)}, got {level!r} ({log.root})")
    return levels


def _policies(
    config: ReplayConfig, controller: Controller | None, tuned: TunedPolicies | None, log: StepLog
) -> tuple[str, ...]:
    """The policies to show, in order; plain decoding always is."""
    if config.policy == "auto":
        has_trees = bool(log.manifest.stores)
        names = ["plain", "best_static"]
        if tuned is not None:
            names += [*tuned.names, *(tuned.tree_names if has_trees else ())]
        names += [] if controller is None else ["controller"]
        names += [LEARNED_TREE] if has_trees and controller is not None and controller.node_score is not None else []
        names += ["free_tree"] if has_trees else []
        return tuple(dict.fromkeys([*names, *(name for name in ORACLES if has_trees or name != TREE_ORACLE)]))
    return tuple(dict.fromkeys(("plain", *config.policy)))


def _play(level: Level, names: Sequence[str], say: Say) -> dict[str, ReplayResult]:
    """Every policy on all traces of a level; the oracle too, whose gain the others are measured by."""
    players = {}
    for name in dict.fromkeys((*names, _limit(names))):
        say(f"{level.compression}: {name}")
        players[name] = level.player(name)
    parts: dict[str, list[ReplayResult]] = {name: [] for name in players}
    for traces in level.chunks():
        for name, play in players.items():
            parts[name].append(play(traces))
    return {name: concatenated(results) for name, results in parts.items()}


def _limit(names: Sequence[str]) -> str:
    """The oracle that bounds all of these policies but trees that an exit drafts too."""
    return TREE_ORACLE if any(name == TREE_ORACLE or drafts_trees(name) for name in names) else "oracle"


def _tasks(result: ReplayResult) -> list[str]:
    """Kinds of content in the order of the prompts, then `all`."""
    return [*dict.fromkeys(result.tasks), "all"]


def _rows(level: Level, results: dict[str, ReplayResult], names: Sequence[str], task: str) -> Iterator[ReplayedRow]:
    """One row for each policy on one kind of content."""
    chosen = [i for i, name in enumerate(results["plain"].tasks) if task in ("all", name)]
    plain, best = (
        results["plain"].only(chosen),
        results[_limit(names)].only(chosen).speedup_over(results["plain"].only(chosen)),
    )
    for name in names:
        result = results[name].only(chosen)
        speedup = result.speedup_over(plain)
        low, high = math.nan, math.nan
        if name != "plain":
            low, high = bootstrap_ratio(plain.seconds, result.seconds, level.config.seed)
        yield ReplayedRow.of(
            result.counts,
            method=name,
            compression=level.compression,
            task=task,
            num_prompts=len(chosen),
            speedup=speedup,
            speedup_low=low,
            speedup_high=high,
            exactness=level.log.manifest.exactness_of(level.compression),
            simulated=True,
            share_of_oracle_gain=(speedup - 1) / (best - 1) if best > 1 else math.nan,
            estimated_share=result.estimated_share,
            estimated_share_error=result.estimated_share_error,
        )
