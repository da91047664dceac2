"""A study: other objectives for the step policy than survival curves, fitted and judged as `fit_controller` does.

    python -m specbound_train.alternatives --log runs/log [--costs runs/levels/costs.json] [--seed 0] [--out table.json]

The split, folds, exit score, features, hidden units, rounds of replaying and fitting again are the trainer's; the
objectives differ. Played without the guard on the validation prompts. With a file of other cost tables each policy is
also replayed at their prices, as it is and fitted again for them. What it fits is not saved. docs/training.md.
"""

# R rows (steps), A actions

import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from specbound_controller.costs import CostTable
from specbound_controller.errors import InputError
from specbound_controller.features import FEATURE_NAMES
from specbound_controller.mlp import Mlp
from specbound_controller.policy import AnnealedConfidence, BatchPolicy
from specbound_controller.score import LearnedScore
from specbound_profiling.bootstrap import bootstrap_ratio
from specbound_profiling.log import StepLog, open_log
from specbound_profiling.manifest import read_cost_file
from specbound_profiling.replay import PLAIN, replay, replay_static
from specbound_profiling.replay_result import ReplayResult
from specbound_train.alternatives_fit import OBJECTIVES, Objective, fit_objective
from specbound_train.alternatives_players import CurvesPlayer, Player, RankingPlayer
from specbound_train.alternatives_rows import OutcomeRows, Pricing, concatenate_outcome_rows, outcome_rows, rest_seconds
from specbound_train.alternatives_table import Judged, table
from specbound_train.collecting import at_most, replay_training
from specbound_train.config import TrainConfig
from specbound_train.data import LevelData
from specbound_train.finished_fits import FinishedFits
from specbound_train.fitting import (
    MAX_ROUND_STEPS,
    STABLE,
    Run,
    Scores,
    fit_scores,
    fit_step_policy,
    prepare,
    without_nan,
)
from specbound_train.modules import average
from specbound_train.rows import StepRows

CURVES = "survival curves"
"""The objective of the trainer."""
NUM_TIMED = 2000
"""Decisions that are timed, one after another."""


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """One objective's policy."""

    objective: str
    player: Player
    num_rounds: int
    process_seconds: float
    """What fitting took, the exit score left out."""


def study(config: TrainConfig, log: StepLog, other_costs: Mapping[str, CostTable]) -> list[Judged]:
    """All objectives at the log's own prices; then at each other table's, as they are and fitted again for it.

    config: of the trainer; its folder is not written to.
    """
    run, fitted = _fit_all(config, log)
    judged = _judge_all(run, fitted, fitted, ("log", "log"))
    for name, costs in other_costs.items():
        priced = replace(log, costs=dict.fromkeys(log.manifest.compressions, costs))
        other_run, again = _fit_all(config, priced)
        judged += _judge_all(other_run, fitted, fitted, ("log", name))
        judged += _judge_all(other_run, again, fitted, (name, name))
    return judged


def _fit_all(config: TrainConfig, log: StepLog) -> tuple[Run, list[Fitted]]:
    """The survival curves, then the others, all on the steps of the same first round."""
    with tempfile.TemporaryDirectory() as folder:
        run = prepare(config, log, FinishedFits(Path(folder)))
        steps = run.first_steps(is_training=True)
        scores = fit_scores(run, steps)
        started = time.process_time()
        curves = fit_step_policy(run, scores, steps)
        spent = time.process_time() - started
    outcomes = _Outcomes(run, scores)
    first = outcomes.of(steps)
    fitted = [Fitted(CURVES, CurvesPlayer(curves.controller), curves.num_rounds, spent)]
    return run, fitted + [_fit_rounds(run, scores, outcomes, first, objective) for objective in OBJECTIVES]


class _Outcomes:
    """Outcomes of every action along steps of the training prompts, at the prices of their levels."""

    def __init__(self, run: Run, scores: Scores) -> None:
        self._run, self._scores = run, scores
        self._pricing, self._rest = {}, {}
        for data in run.levels:
            pricing = Pricing(run.actions, run.num_layers, data.costs, run.config.full_signals)
            key = (data.compression, data.sampling_temperature)
            self._pricing[key], self._rest[key] = pricing, rest_seconds(data.training, pricing, run.alpha)

    def of(self, steps: Sequence[StepRows]) -> OutcomeRows:
        """At most as many rows as a round of the trainer takes."""
        parts = []
        for part in at_most(steps, MAX_ROUND_STEPS, self._run.config.seed):
            first = part.batch.traces[0]
            key = (first.compression, first.sampling_temperature)
            parts.append(outcome_rows(part, self._pricing[key], self._scores.by_fold, self._rest[key]))
        return concatenate_outcome_rows(parts)


def _fit_rounds(run: Run, scores: Scores, outcomes: _Outcomes, rows: OutcomeRows, objective: Objective) -> Fitted:
    """Fits, replays, adds the replayed steps and fits again, as the trainer does: the fastest on the training prompts.

    rho is the speed of the round before, in the first round that of the best single action.
    """
    started = time.process_time()
    rho = float((rows.emitted.sum(axis=0) / rows.seconds.sum(axis=0)).max())
    settings = run.settings(run.config.hidden_units)
    speeds: list[float] = []
    best: tuple[Mlp, ...] = ()
    while len(speeds) < run.config.max_rounds:
        mlps = fit_objective(objective, rows, rho, settings)
        players = [
            _player(run, objective, mlp, score, rows.features) for mlp, score in zip(mlps, scores.by_fold, strict=True)
        ]
        speed, steps = replay_training(run.levels, [player.policy for player in players], run.num_layers)
        if speed > max(speeds, default=0.0):
            best, best_features = mlps, rows.features
        speeds.append(speed)
        if len(speeds) > 1 and abs(speed / speeds[-2] - 1.0) < STABLE:
            break
        rho = speed
        rows = concatenate_outcome_rows([rows, outcomes.of(steps)])
    player = _player(run, objective, average(best), scores.deployed, best_features)
    return Fitted(objective.name, player, len(speeds), time.process_time() - started)


def _player(run: Run, objective: Objective, mlp: Mlp, score: LearnedScore, features: np.ndarray) -> RankingPlayer:
    ranking = objective.ranking(mlp, features)
    return RankingPlayer(ranking, mlp.num_outputs, run.actions, score, run.config.full_signals)


def _judge_all(run: Run, fitted: Sequence[Fitted], at_log: Sequence[Fitted], prices: tuple[str, str]) -> list[Judged]:
    """Every objective at the prices of a run.

    at_log: what was fitted at the log's own prices, the survival curves first.
    prices: names of those that they were fitted at, and of those of the run.
    """
    judged = []
    for data, static_action in zip(run.levels, run.own_statics, strict=True):
        plain = replay_static(data.validation, PLAIN, data.costs, run.num_layers)
        annealed = {"annealed": AnnealedConfidence(run.alpha)}
        static = replay_static(data.validation, static_action.decision(annealed), data.costs, run.num_layers)
        curves = _replay_validation(run, data, at_log[0].player)
        for each in fitted:
            result = _replay_validation(run, data, each.player)
            over_static = bootstrap_ratio(static.seconds, result.seconds, run.config.seed)
            over_curves = bootstrap_ratio(curves.seconds, result.seconds, run.config.seed)
            judged.append(
                Judged(
                    each.objective,
                    data.name,
                    *prices,
                    result.speedup_over(plain),
                    result.speedup_over(static),
                    *over_static,
                    result.speedup_over(curves),
                    *over_curves,
                    result.tokens_per_step,
                    each.player.num_outputs,
                    _decision_us(each.player.policy(data.costs, data.compression), run.config.seed),
                    each.player.can_be_priced,
                    each.num_rounds,
                    each.process_seconds,
                )
            )
    return judged


def _replay_validation(run: Run, data: LevelData, player: Player) -> ReplayResult:
    policy = player.policy(data.costs, data.compression)
    return replay(data.validation, policy, data.costs, run.num_layers, data.compression)


def _decision_us(policy: BatchPolicy, seed: int) -> float:
    features = np.random.default_rng(seed).random((NUM_TIMED, len(FEATURE_NAMES)), dtype=np.float32)
    spent = []
    for row in features:
        started = time.perf_counter()
        policy.decide(row)
        spent.append(time.perf_counter() - started)
    return 1e6 * float(np.median(spent))


def run_study(
    log: str,
    costs: str | None = None,
    prices: str | None = None,
    seed: int = 0,
    hidden_units: int = 32,
    max_rounds: int = 3,
    epochs: int = 40,
    out: str | None = None,
) -> None:
    """Fits and replays every objective on a log, and prints the table.

    Args:
        log: Folder of the log.
        costs: File of other cost tables (a log's costs.json).
        prices: Which level of that file; none takes all.
        seed: Of the split, the random actions and the weights.
        hidden_units: Of the step policy.
        max_rounds: Most rounds of replaying and fitting again.
        epochs: Most passes over the rows in each fit.
        out: File for the figures as JSON.
    """
    if out is not None and not Path(out).expanduser().parent.is_dir():
        raise InputError(f"out must be a file in a folder that exists, got {out}")
    found = read_cost_file(Path(costs).expanduser()) if costs else {}
    if prices is not None and prices not in found:
        raise InputError(f"prices must name a level of costs, {', '.join(found) or 'none given'}, got {prices!r}")
    config = TrainConfig(
        log, out="", seed=seed, hidden_units=hidden_units, max_rounds=max_rounds, epochs=epochs, report=False
    )
    judged = study(config, open_log(log), found if prices is None else {prices: found[prices]})
    print(table(judged))
    if out is not None:
        text = json.dumps([without_nan(asdict(each)) for each in judged], indent=1)
        partial = Path(f"{out}.partial").expanduser()
        partial.write_text(text + "\n", encoding="utf-8")
        os.replace(partial, Path(out).expanduser())


def main() -> int:
    """The command; 2 after bad input."""
    from jsonargparse import auto_cli

    torch.set_num_threads(1)
    try:
        auto_cli(run_study, as_positional=False)
    except InputError as error:
        print(f"alternatives: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
