"""Judges the score of tree nodes on the validation prompts: how well it foretells, how fast its trees are.

Beside it stand the rates that trees use without training, counts on the training prompts, and priors by hand.
"""

# K candidates

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from sklearn.metrics import log_loss

from specbound_controller.costs import CostTable
from specbound_controller.policy import StaticPolicy
from specbound_controller.trees.node_score import NodeScore
from specbound_controller.trees.plan import Rates
from specbound_controller.trees.rates import PRIOR_WEIGHT, prior_rates
from specbound_controller.trees.settings import TreeSettings, TreeSources
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.replay.bootstrap import bootstrap_ratio
from specbound_profiling.replay.replay import replay
from specbound_train.calibration.measures import expected_calibration_error, measures
from specbound_train.data import LevelData
from specbound_train.nodes.fit import NodeScores
from specbound_train.nodes.rows import NodeRows, concatenated, node_rows
from specbound_train.tuning.trees import tune_trees

RULES = ("tuned_tree", "priced_tree")
"""Trees by rates that learned ones are compared with: those that replay grows at all places at once."""
_TINY = 1e-6


@dataclass(frozen=True, slots=True)
class ScoreFit:
    """How well one way to score candidates fits what happened."""

    name: str
    """`learned`, `rates` (what trees use without training), `counts` (rates counted on the training prompts) or
    `by_hand`."""
    log_loss: float
    """Nats a candidate."""
    auroc: float
    ece: float
    """Expected calibration error, 10 bins of equal count."""


@dataclass(frozen=True, slots=True)
class RankFit:
    """Calibration of the learned score on the candidates that one source proposes first, at one rank."""

    source: str
    rank: int
    num_rows: int
    share_right: float
    ece: float
    rates_ece: float
    """The same of the rates."""


@dataclass(frozen=True, slots=True)
class TreeLevel:
    """Replayed speeds at one compression level and sampling temperature, over plain decoding, on the validation
    prompts."""

    name: str
    compression: str
    learned_speedup: float
    """Trees of the learned score whose nodes must pay."""
    learned_nodes: float
    """Their draft tokens a step."""
    tuned_speedups: Mapping[str, float]
    """Trees by rates, tuned on the training prompts: name -> speed."""
    gain_low: float
    """Learned trees over the fastest of these, 95 % interval over prompts: lower end."""
    gain_high: float
    """Upper end."""

    @property
    def best_tuned(self) -> str:
        """The fastest tree by rates."""
        return max(self.tuned_speedups, key=self.tuned_speedups.__getitem__)


@dataclass(frozen=True, slots=True)
class TreesSummary:
    """What a training found out about trees."""

    num_rows: int
    """Candidates that the score was fitted on."""
    num_judged: int
    """Candidates of the validation prompts."""
    fits: tuple[ScoreFit, ...]
    ranks: tuple[RankFit, ...]
    """Of every source, those ranks that have candidates."""
    levels: tuple[TreeLevel, ...]
    played: tuple[str, ...]
    """Compression levels at which the controller plays trees."""


def judge_scores(
    levels: Sequence[LevelData], scores: NodeScores, sources: TreeSources, seed: int
) -> tuple[tuple[ScoreFit, ...], tuple[RankFit, ...], int]:
    """Fits, calibration by source and rank, and how many candidates they were judged on."""
    names = scores.deployed.sources
    rows = concatenated([node_rows(data.validation, sources.stores, names, seed) for data in levels])
    training = concatenated([node_rows(data.training, sources.stores, names, seed) for data in levels])
    priors = prior_rates()
    found = {
        "learned": chances_of(scores.deployed, rows),
        "rates": rows.by_rates(names, sources.rates),
        "counts": rows.by_rates(names, counted_rates(training, names)),
        "by_hand": rows.by_rates(names, priors),
    }
    fits = tuple(_score_fit(name, chances, rows.is_right) for name, chances in found.items())
    source, rank = rows.source, rows.rank(names)
    by_rank = []
    for index, name in enumerate(names):
        for place in range(int(rank[source == index].max(initial=-1)) + 1):
            own = (source == index) & (rank == place)
            if own.any():
                errors = [expected_calibration_error(found[kind][own], rows.is_right[own]) for kind in list(found)[:2]]
                by_rank.append(RankFit(name, place, int(own.sum()), float(rows.is_right[own].mean()), *errors))
    return fits, tuple(by_rank), len(rows)


def chances_of(score: NodeScore, rows: NodeRows) -> np.ndarray:
    """The score of every row. (K,)"""
    of_depth = score.of_depths(rows.recent)[np.arange(len(rows)), rows.depth]
    return score.chances(rows.cells, rows.source, score.of_places(of_depth, rows.firsts))


def counted_rates(rows: NodeRows, names: Sequence[str]) -> Rates:
    """Share of right candidates in every cell, each prior worth `PRIOR_WEIGHT` of them."""
    priors, found, start = prior_rates(), {}, 1
    for place, name in enumerate(names):
        end = start + len(priors[name])
        trials, hits = (
            np.bincount(rows.cells[chosen, place], minlength=end)[start:end]
            for chosen in (np.ones(len(rows), dtype=bool), rows.is_right)
        )
        prior = np.array(priors[name])
        found[name] = ((hits + PRIOR_WEIGHT * prior) / (trials + PRIOR_WEIGHT)).tolist()
        start = end
    return found


def _score_fit(name: str, chances: np.ndarray, is_right: np.ndarray) -> ScoreFit:
    found = measures(chances, is_right)
    loss = float(log_loss(is_right, np.clip(chances, _TINY, 1 - _TINY), labels=[False, True]))
    return ScoreFit(name, loss, found.auroc, found.ece)


def judge_trees(
    levels: Sequence[LevelData],
    scores: NodeScores,
    growth: Mapping[str, TreeSettings],
    sources: TreeSources,
    num_layers: int,
    seed: int,
) -> tuple[TreeLevel, ...]:
    """Replays learned trees and those of rates, which are tuned on the training prompts."""
    found = []
    learned = replace(sources, score=scores.deployed)
    for data in levels:
        tuned = tune_trees(data.training, sources, data.costs, num_layers, lambda line: None, RULES)
        policies = {name: own.settings.policy(sources, data.costs, num_layers) for name, own in tuned.items()}
        results = {
            name: replay(data.validation, policy, data.costs, num_layers, data.compression)
            for name, policy in policies.items()
        }
        own = replay(
            data.validation,
            growth[data.compression].policy(learned, data.costs, num_layers),
            data.costs,
            num_layers,
            data.compression,
        )
        plain_s = plain_seconds(data.validation, data.costs, num_layers)
        speedups = {name: plain_s / float(result.seconds.sum()) for name, result in results.items()}
        best = results[max(speedups, key=speedups.__getitem__)]
        low, high = bootstrap_ratio(best.seconds, own.seconds, seed)
        nodes = float(own.num_drafted.sum() / own.num_steps.sum())
        learned_speedup = plain_s / float(own.seconds.sum())
        found.append(TreeLevel(data.name, data.compression, learned_speedup, nodes, speedups, low, high))
    return tuple(found)


def plain_seconds(traces: Sequence[PromptTrace], costs: CostTable, num_layers: int) -> float:
    """Of plain decoding of all prompts, modelled."""
    return float(replay(traces, StaticPolicy(()), costs, num_layers, "none").seconds.sum())
