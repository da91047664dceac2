"""Fits a controller on a step log: the exit score first, then the step policy on the policy's own trajectory."""

# R rows (steps), F features, J longest draft

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from math import ceil, isnan
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger

from specbound_controller.actions import Action, action_grid
from specbound_controller.config import ControllerConfig
from specbound_controller.controller import MAX_SAMPLE_ROWS, Controller, Sample
from specbound_controller.mlp import Mlp
from specbound_controller.policy import AnnealedConfidence
from specbound_controller.records import Decision, StepRecord
from specbound_controller.score import LearnedScore
from specbound_controller.step_policy import CurveLayout
from specbound_profiling.annealing import fit_alpha
from specbound_profiling.best_static import best_static_action
from specbound_profiling.log import StepLog
from specbound_profiling.outcomes import TraceBatch
from specbound_profiling.trace import PromptTrace
from specbound_train.calibration import ExitFit, fit_measures, platt
from specbound_train.compare import judge
from specbound_train.config import TrainConfig
from specbound_train.data import LevelData, load_levels
from specbound_train.loggers import finish, make_logger
from specbound_train.modules import FitSettings, Rows, average, fit_folds
from specbound_train.rows import (
    CurveRows,
    ExploringPolicy,
    ScoreRows,
    StepRows,
    collect_steps,
    concatenate_curve_rows,
    concatenate_score_rows,
    curve_rows,
    score_rows,
)
from specbound_train.summary import TrainSummary

WANTED_ROWS = 4000
"""Steps that the first collection aims at; a small log is replayed several times with other random actions."""
MAX_PASSES = 8
MAX_SCORE_ROWS = 300_000
"""Most draft tokens that the exit score is fitted on; a random choice of more."""
STABLE = 0.005
"""Relative change of the replayed speed below which collecting ends."""


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """What stays the same while one controller is fitted."""

    config: TrainConfig
    log: StepLog
    levels: tuple[LevelData, ...]
    actions: tuple[Action, ...]
    layout: CurveLayout
    alpha: float
    statics: dict[str, Action]
    """Compression level -> best static action on its training prompts."""

    @property
    def num_layers(self) -> int:
        return self.log.manifest.num_layers

    def settings(self, hidden_units: int) -> FitSettings:
        config = self.config
        return FitSettings(hidden_units, config.epochs, config.learning_rate, config.weight_decay, config.seed)

    def fit(self, name: str, rows: Rows, folds: np.ndarray, hidden_units: int) -> tuple[Mlp, ...]:
        """One perceptron for each fold, fitted without it."""
        loggers: list[Logger | None] = []

        def logger_of(fold: int) -> Logger | None:
            for logger in loggers[-1:]:
                finish(logger)
            loggers.append(make_logger(self.config.logger, self.config.out, f"{name}_fold{fold}"))
            return loggers[-1]

        mlps = fit_folds(rows, folds, self.settings(hidden_units), logger_of)
        finish(loggers[-1])
        return mlps


class _FixedPolicy:
    """Always the same decision."""

    needs_features = needs_full_signals = True

    def __init__(self, decision: Decision) -> None:
        self._decision = decision

    def reset(self) -> None:
        pass

    def decide(self, features: np.ndarray | None) -> Decision:
        return self._decision

    def observe(self, record: StepRecord) -> None:
        pass


def fit_controller(config: TrainConfig, log: StepLog) -> tuple[Controller, TrainSummary]:
    """The controller, and the summary with the wall time left at 0."""
    run = _prepare(config, log)
    steps = [
        part for index, data in enumerate(run.levels) for part in _first_steps(run, index, data.training, data.folds)
    ]
    scores = _fit_scores(run, steps)
    controller, num_rows, num_rounds = _fit_step_policy(run, scores, steps)
    levels = tuple(
        judge(data, controller, run.statics[data.compression], run.layout.longest, config.seed) for data in run.levels
    )
    static = {level.compression: level.played_action for level in levels if level.played_action is not None}
    summary = TrainSummary(
        out=config.out,
        num_prompts=log.manifest.num_prompts,
        num_positions=sum(data.num_positions for data in run.levels),
        num_rows=num_rows,
        num_rounds=num_rounds,
        num_actions=len(run.actions),
        alpha=run.alpha,
        exits=_judge_score(run, scores.deployed),
        levels=levels,
        seconds=0.0,
    )
    kept = {name: value for name, value in _without_nan(asdict(summary)).items() if name not in ("out", "seconds")}
    return replace(controller, config=replace(controller.config, static_actions=static, summary=kept)), summary


def _prepare(config: TrainConfig, log: StepLog) -> _Run:
    levels = tuple(load_levels(log, config.validation_share, config.seed))
    num_layers = log.manifest.num_layers
    actions = action_grid(log.manifest.exit_layers, config.widths, config.thresholds)
    alpha = fit_alpha([trace for data in levels for trace in data.training], num_layers)
    statics = {
        data.compression: best_static_action(
            data.training, data.costs, num_layers, alpha, config.widths, config.thresholds
        )
        for data in levels
    }
    return _Run(config, log, levels, actions, CurveLayout(actions), alpha, statics)


def _first_steps(run: _Run, index: int, traces: tuple[PromptTrace, ...], folds: np.ndarray) -> list[StepRows]:
    """Steps of a level's best static action with random ones between, on some prompts."""
    data = run.levels[index]
    annealed = {"annealed": AnnealedConfidence(run.alpha)}
    # Before there is a learned score, annealed confidence tests in its place.
    grid = [
        (replace(action, score="annealed") if action.score == "learned" else action).decision(annealed)
        for action in run.actions
    ]
    batch = TraceBatch(traces)
    passes = min(MAX_PASSES, max(1, ceil(2 * WANTED_ROWS / max(1, data.num_positions))))
    base = _FixedPolicy(run.statics[data.compression].decision(annealed))
    steps = []
    for number in range(passes):
        rng = np.random.default_rng((run.config.seed, index, len(traces), number))
        policy = ExploringPolicy(base, grid, run.config.exploration, rng)
        steps.append(collect_steps(batch, folds, policy, data.costs, run.num_layers, data.compression)[0])
    return steps


@dataclass(frozen=True, slots=True, eq=False)
class _Scores:
    """Exit scores: one for each fold, fitted without it, and their average."""

    by_fold: tuple[LearnedScore, ...]
    deployed: LearnedScore


def _fit_scores(run: _Run, steps: Sequence[StepRows]) -> _Scores:
    """Exit scores, calibrated for each exit layer on rows that their networks have not seen."""
    rows = _at_most(concatenate_score_rows([score_rows(part, run.layout.longest) for part in steps]), run.config.seed)
    mlps = run.fit("exit_score", _score_targets(rows), rows.folds, run.config.score_hidden_units)
    logits = np.empty(len(rows))
    for fold, mlp in enumerate(mlps):
        logits[rows.folds == fold] = mlp(rows.inputs[rows.folds == fold])[:, 0]
    exit_layers = tuple(run.log.manifest.exit_layers)
    chosen = [rows.exit_index == index for index in range(len(exit_layers))]
    values = [platt(logits[here], rows.is_accepted[here]) for here in chosen]
    slopes, offsets = tuple(slope for slope, _ in values), tuple(offset for _, offset in values)
    by_fold = tuple(LearnedScore(mlp, exit_layers, slopes, offsets) for mlp in mlps)
    return _Scores(by_fold, LearnedScore(average(mlps), exit_layers, slopes, offsets))


def _score_targets(rows: ScoreRows) -> Rows:
    targets = rows.is_accepted[:, None]
    return Rows(rows.inputs, targets, np.ones_like(targets))


def _at_most(rows: ScoreRows, seed: int) -> ScoreRows:
    if len(rows) <= MAX_SCORE_ROWS:
        return rows
    return rows.subset(np.sort(np.random.default_rng(seed).choice(len(rows), MAX_SCORE_ROWS, replace=False)))


def _fit_step_policy(run: _Run, scores: _Scores, steps: list[StepRows]) -> tuple[Controller, int, int]:
    """Fits, replays, adds the replayed steps and fits again, until the replayed speed is stable: the fastest of them.

    Returns the controller, the number of rows of the last fit, and the number of rounds.
    """
    rows = _targets(run, scores, steps)
    sample = _sample(steps, run.config.seed)
    speeds: list[float] = []
    best: Controller | None = None
    for number in range(1, run.config.max_rounds + 1):
        targets = Rows(rows.features, rows.is_reached, rows.is_known)
        mlps = run.fit(f"step_policy_{number}", targets, rows.folds, run.config.hidden_units)
        by_fold = [_controller(run, score, mlp, sample) for score, mlp in zip(scores.by_fold, mlps, strict=True)]
        speed, steps = _replay_training(run, by_fold)
        sample = _sample(steps, run.config.seed)
        if not speeds or speed > max(speeds):
            best = _controller(run, scores.deployed, average(mlps), sample)
        speeds.append(speed)
        if number == run.config.max_rounds or (number > 1 and abs(speed / speeds[-2] - 1.0) < STABLE):
            break
        rows = concatenate_curve_rows([rows, _targets(run, scores, steps)])
    assert best is not None  # max_rounds is at least 1
    return best, len(rows), len(speeds)


def _targets(run: _Run, scores: _Scores, steps: Sequence[StepRows]) -> CurveRows:
    return concatenate_curve_rows([curve_rows(part, run.layout, scores.by_fold, run.num_layers) for part in steps])


def _controller(run: _Run, score: LearnedScore, mlp: Mlp, sample: Sample) -> Controller:
    manifest = run.log.manifest
    config = ControllerConfig(
        exit_layers=tuple(manifest.exit_layers),
        num_layers=manifest.num_layers,
        model_fingerprint=manifest.model_fingerprint,
        compressions=tuple(manifest.compressions),
        actions=run.actions,
        alpha=run.alpha,
        slopes=score.slopes,
        offsets=score.offsets,
        costs={data.compression: data.costs for data in run.levels},
        prompts_hash=manifest.prompts_hash,
        seed=run.config.seed,
        versions=_versions(),
    )
    return Controller(config, score.mlp, mlp, sample)


def _replay_training(run: _Run, by_fold: Sequence[Controller]) -> tuple[float, list[StepRows]]:
    """Replayed tokens per second on the training prompts, and the steps taken, without the guard.

    Each prompt is decoded by the controller that was fitted without its fold, so that the speed is no promise of
    networks that know the prompts.
    """
    num_tokens, seconds = 0.0, 0.0
    steps = []
    for data in run.levels:
        for fold, controller in enumerate(by_fold):
            traces = [trace for trace, own in zip(data.training, data.folds, strict=True) if own == fold]
            if not traces:  # a prompt may end at once at one level and not at another
                continue
            batch = TraceBatch(traces)
            folds = np.full(len(batch.traces), fold)
            policy = controller.policy(data.costs, data.compression, guard=False)
            rows, result = collect_steps(batch, folds, policy, data.costs, run.num_layers, data.compression)
            steps.append(rows)
            num_tokens += float(result.num_tokens.sum())
            seconds += float(result.seconds.sum())
    return num_tokens / seconds, steps


def _sample(steps: Sequence[StepRows], seed: int) -> Sample:
    """At most `MAX_SAMPLE_ROWS` of the steps, each standing for equally many."""
    features = np.concatenate([part.features for part in steps])
    num_rows = min(len(features), MAX_SAMPLE_ROWS)
    chosen = np.sort(np.random.default_rng(seed).choice(len(features), num_rows, replace=False))
    weight = len(features) / num_rows
    return Sample(features[chosen], np.full(num_rows, weight, dtype=np.float32))


def _judge_score(run: _Run, score: LearnedScore) -> tuple[ExitFit, ...]:
    """Calibration of the exit score on the validation prompts, along steps of the best static action."""
    steps = [
        part
        for index, data in enumerate(run.levels)
        for part in _first_steps(run, index, data.validation, np.zeros(len(data.validation), dtype=np.int64))
    ]
    rows = concatenate_score_rows([score_rows(part, run.layout.longest) for part in steps])
    logits = score.mlp(rows.inputs)[:, 0].astype(np.float64)
    fits = []
    for index, exit_layer in enumerate(score.exit_layers):
        chosen = rows.exit_index == index
        probability = 0.5 * (np.tanh(0.5 * (score.slopes[index] * logits[chosen] + score.offsets[index])) + 1.0)
        fits.append(fit_measures(exit_layer, probability, rows.confidence[chosen], rows.is_accepted[chosen]))
    return tuple(fits)


def _versions() -> dict[str, str]:
    found = {}
    for name in ("specbound", "torch", "lightning", "numpy", "scikit-learn", "safetensors"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a checkout that is not installed
            continue
    return found


def _without_nan(value: Any) -> Any:
    """The same with nan replaced by None, which JSON can say."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and isnan(value) else value
