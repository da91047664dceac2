"""Fits a controller on a step log: the exit score first, then the step policy on the policy's own trajectory."""

# R rows (steps), F features, J longest draft

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np

from specbound_controller.actions import Action, action_grid
from specbound_controller.config import ControllerConfig
from specbound_controller.controller import Controller, Sample, is_feature
from specbound_controller.features import FEATURE_NAMES
from specbound_controller.mlp import Mlp, sigmoid
from specbound_controller.score import LearnedScore
from specbound_controller.step_policy import CurveLayout
from specbound_profiling.log.store import StepLog
from specbound_profiling.progress import Work, working
from specbound_profiling.replay.annealing import fit_alpha
from specbound_profiling.replay.best_static import best_static_action
from specbound_profiling.versions import versions_of
from specbound_train.calibration.measures import ExitFit, fit_measures, platt
from specbound_train.collecting import at_most, first_steps, replay_training, sample_of, without_guard
from specbound_train.compare import LevelSummary, judge
from specbound_train.config import TrainConfig
from specbound_train.data import LevelData, load_levels
from specbound_train.finished_fits import FinishedFits
from specbound_train.loggers import make_logger
from specbound_train.modules import FitSettings, LossCurve, Rows, average, fit_folds
from specbound_train.nodes.train import knows_trees, train_trees
from specbound_train.policy_search import search_corrections
from specbound_train.rows import (
    CurveRows,
    ScoreRows,
    StepRows,
    concatenate_curve_rows,
    concatenate_score_rows,
    curve_rows,
    score_rows,
)
from specbound_train.summary import TrainSummary

PACKAGES = ("specbound", "torch", "lightning", "numpy", "scikit-learn", "safetensors")
"""Whose versions a controller names."""
MAX_SCORE_STEPS = 16_000
"""Most steps whose drafts the exit score is fitted on; a random choice of more. Each holds several drafts per exit."""
MAX_ROUND_STEPS = 25_000
"""Most steps of one round that the step policy is fitted on; a random choice of more."""
PARTS_BEFORE_ROUNDS, PARTS_AFTER_ROUNDS = 3, 2
"""Of a training, as long as a round each, roughly: for the time left."""
STABLE = 0.005
"""Relative change of the replayed speed below which collecting ends."""


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """What stays the same while one controller is fitted."""

    config: TrainConfig
    log: StepLog
    """The first of the logs: they are alike in all but prompts, compression levels and sampling."""
    levels: tuple[LevelData, ...]
    actions: tuple[Action, ...]
    layout: CurveLayout
    alpha: float
    statics: dict[str, Action]
    """Compression level -> best static action on its training prompts, of all sampling temperatures together."""
    own_statics: tuple[Action, ...]
    """Best static action on the training prompts of each of `levels`."""
    fits: FinishedFits

    @property
    def num_layers(self) -> int:
        return self.log.manifest.num_layers

    def settings(self, hidden_units: int) -> FitSettings:
        config = self.config
        return FitSettings(hidden_units, config.epochs, config.learning_rate, config.weight_decay, config.seed)

    def fit(self, name: str, rows: Rows, folds: np.ndarray, hidden_units: int) -> tuple[Mlp, ...]:
        """One perceptron for each fold, fitted without it."""
        if self.config.without_compression:  # an input that never varies gets no weight
            rows = replace(rows, inputs=np.where(is_feature(rows.inputs.shape[1], "compression_"), 0.0, rows.inputs))
        return self._fit_folds(name, rows, folds, hidden_units)

    def _fit_folds(self, name: str, rows: Rows, folds: np.ndarray, hidden_units: int) -> tuple[Mlp, ...]:
        def fit_one(fold: int, own: Rows, tune: Rows, settings: FitSettings) -> Mlp:
            full_name = f"{name}_fold{fold}"
            return self.fits.fit(
                full_name, own, tune, settings, lambda: make_logger(self.config.logger, self.config.out, full_name)
            )

        return fit_folds(rows, folds, self.settings(hidden_units), fit_one)

    def fit_nodes(self, rows: Rows, folds: np.ndarray) -> tuple[Mlp, ...]:
        """The same of the score of tree nodes, which has no step features."""
        return self._fit_folds("node_score", rows, folds, self.config.tree_hidden_units)

    def first_steps(self, is_training: bool) -> list[StepRows]:
        """Steps of the best static actions with random ones between, of all levels."""
        steps = []
        for index, (data, static) in enumerate(zip(self.levels, self.own_statics, strict=True)):
            traces = data.training if is_training else data.validation
            folds = data.folds if is_training else np.zeros(len(traces), dtype=np.int64)
            steps += first_steps(
                data,
                traces,
                folds,
                static,
                self.actions,
                self.alpha,
                self.num_layers,
                self.config.exploration,
                (self.config.seed, index),
                self.config.full_signals,
            )
        return steps


@dataclass(frozen=True, slots=True, eq=False)
class FittedController:
    """A controller, and what its report is made of."""

    controller: Controller
    summary: TrainSummary
    """With the wall time left at 0."""
    levels: tuple[LevelData, ...]
    steps: list[StepRows]
    """Steps of the last round on the training prompts."""
    curves: dict[str, LossCurve]
    """Name of a fit -> its losses."""


def fit_controller(config: TrainConfig, logs: Sequence[StepLog], fits: FinishedFits) -> FittedController:
    """Trains on logs, at least one. fits: what an earlier, killed run has finished is not done again."""
    with working("training a controller", PARTS_BEFORE_ROUNDS + config.max_rounds + PARTS_AFTER_ROUNDS) as work:
        work.note = "fixed settings and first steps"
        run = prepare(config, logs[0], fits, logs[1:])
        steps = run.first_steps(is_training=True)
        work.advance()
        work.note = "exit score"
        scores = fit_scores(run, steps)
        work.advance()
        step_policy = fit_step_policy(run, scores, steps, work)
        controller = step_policy.controller
        work.note = "judging by replay"
        levels = tuple(_judge_levels(run, controller))
        trees = None
        if knows_trees(logs, run.levels):
            work.note = "draft trees"
            trees = train_trees(logs[0], run.levels, levels, config.seed, run.fit_nodes)
    static = {level.compression: level.played_action for level in levels if level.played_action is not None}
    summary = TrainSummary(
        out=config.out,
        model=_bare_name(run.log.manifest.model),
        prompts=", ".join(dict.fromkeys(_bare_name(log.manifest.prompts) for log in logs)),
        num_prompts=len({trace.prompt_id for data in run.levels for trace in data.training + data.validation}),
        num_positions=sum(data.num_positions for data in run.levels),
        num_rows=step_policy.num_rows,
        num_rounds=step_policy.num_rounds,
        num_actions=len(controller.config.actions),
        alpha=run.alpha,
        exits=_judge_score(run, scores.deployed),
        levels=levels,
        trees=None if trees is None else trees.summary,
        seconds=0.0,
    )
    kept = {name: value for name, value in without_nan(asdict(summary)).items() if name not in ("out", "seconds")}
    saved = replace(controller, config=replace(controller.config, static_actions=static, summary=kept))
    if trees is not None:
        saved = replace(saved, config=replace(saved.config, trees=trees.trees), node_mlp=trees.mlp)
    return FittedController(saved, summary, run.levels, step_policy.steps, fits.curves)


def prepare(config: TrainConfig, log: StepLog, fits: FinishedFits, others: Sequence[StepLog] = ()) -> Run:
    """others: further logs of the same model."""
    chosen = None if config.compression == "auto" else config.compression
    levels = tuple(load_levels([log, *others], config.validation_share, config.seed, chosen, config.max_positions))
    num_layers = log.manifest.num_layers
    exit_layers, widths, pairs = log.manifest.exit_layers, config.widths, config.lookup_first
    actions = action_grid(exit_layers, widths, config.thresholds, lookup_first=pairs)
    alpha = fit_alpha([trace for data in levels for trace in data.training], num_layers)

    def fastest(parts: Sequence[LevelData]) -> Action:
        traces = [trace for data in parts for trace in data.training]
        return best_static_action(traces, parts[0].costs, num_layers, alpha, widths, config.thresholds, pairs)

    own_statics = tuple(fastest([data]) for data in levels)
    statics = {}
    for data, own in zip(levels, own_statics, strict=True):
        parts = [each for each in levels if each.compression == data.compression]
        statics[data.compression] = own if len(parts) == 1 else fastest(parts)
    return Run(config, log, levels, actions, CurveLayout(actions), alpha, statics, own_statics, fits)


def _judge_levels(run: Run, controller: Controller) -> list[LevelSummary]:
    """What `judge` says of each compression level."""
    summaries = []
    for compression, static in run.statics.items():
        pairs = zip(run.levels, run.own_statics, strict=True)
        parts, own = zip(*(pair for pair in pairs if pair[0].compression == compression), strict=True)
        summaries += judge(parts, controller, static, own, run.layout.longest, run.config.seed)
    return summaries


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Exit scores: one for each fold, fitted without it, and their average."""

    by_fold: tuple[LearnedScore, ...]
    deployed: LearnedScore


def fit_scores(run: Run, steps: Sequence[StepRows]) -> Scores:
    """Exit scores, calibrated for each exit layer on rows that their networks have not seen."""
    chosen_steps = at_most(steps, MAX_SCORE_STEPS, run.config.seed)
    rows = concatenate_score_rows([score_rows(part, run.layout.longest) for part in chosen_steps])
    mlps = run.fit("exit_score", _score_targets(rows), rows.folds, run.config.score_hidden_units)
    logits = np.empty(len(rows))
    for fold, mlp in enumerate(mlps):
        logits[rows.folds == fold] = mlp(rows.inputs[rows.folds == fold])[:, 0]
    exit_layers = tuple(run.log.manifest.exit_layers)
    chosen = [rows.exit_index == index for index in range(len(exit_layers))]
    values = [platt(logits[here], rows.is_accepted[here]) for here in chosen]
    slopes, offsets = tuple(slope for slope, _ in values), tuple(offset for _, offset in values)
    by_fold = tuple(LearnedScore(mlp, exit_layers, slopes, offsets) for mlp in mlps)
    return Scores(by_fold, LearnedScore(average(mlps), exit_layers, slopes, offsets))


def _score_targets(rows: ScoreRows) -> Rows:
    targets = rows.is_accepted[:, None]
    return Rows(rows.inputs, targets, np.ones_like(targets))


@dataclass(frozen=True, slots=True, eq=False)
class _StepPolicyFit:
    """The fastest controller of all rounds."""

    controller: Controller
    num_rows: int
    """Of the last fit."""
    num_rounds: int
    steps: list[StepRows]
    """Of the last replay."""


def fit_step_policy(run: Run, scores: Scores, steps: list[StepRows], work: Work) -> _StepPolicyFit:
    """Fits, replays, adds the replayed steps and fits again, until the replayed speed is stable: the fastest one, its
    choice corrected by what replay says. work: advanced with every round.

    Where the grid has more kinds of action than the controller may keep, a first fit on all of them says which.
    """
    earlier = [steps]
    if len(run.layout.profiles) > run.config.max_profiles:
        work.note = "step policy on all kinds of action"
        by_fold, _ = _fit_controllers(run, scores, "step_policy_all", _targets(run, scores, steps), steps)
        _, steps = replay_training(run.levels, without_guard(by_fold), run.num_layers)
        run = _with_most_chosen(run, by_fold[0], steps)
        earlier.append(steps)
    rows = concatenate_curve_rows([_targets(run, scores, part) for part in earlier])
    speeds: list[float] = []
    best: tuple[list[Controller], Controller] | None = None
    work.advance()
    for number in range(1, run.config.max_rounds + 1):
        work.note = f"step policy, round {number} of at most {run.config.max_rounds}"
        by_fold, controller = _fit_controllers(run, scores, f"step_policy_{number}", rows, steps)
        speed, steps = replay_training(run.levels, without_guard(by_fold), run.num_layers)
        if not speeds or speed > max(speeds):
            best = by_fold, replace(controller, sample=sample_of(steps, run.config.seed))
        speeds.append(speed)
        work.advance()
        if number == run.config.max_rounds or (number > 1 and abs(speed / speeds[-2] - 1.0) < STABLE):
            break
        rows = concatenate_curve_rows([rows, _targets(run, scores, steps)])
    assert best is not None  # max_rounds is at least 1
    by_fold, controller = best
    work.done, work.note = PARTS_BEFORE_ROUNDS + run.config.max_rounds, "corrections"
    corrections = search_corrections(run.levels, by_fold, run.num_layers, run.config.seed)
    controller = replace(controller, config=replace(controller.config, corrections=corrections))
    return _StepPolicyFit(controller, len(rows), len(speeds), steps)


def _fit_controllers(
    run: Run, scores: Scores, name: str, rows: CurveRows, steps: Sequence[StepRows]
) -> tuple[list[Controller], Controller]:
    """A controller for each fold, fitted without it, and the one of their averages. steps: for their samples."""
    mlps = run.fit(name, Rows(rows.features, rows.is_reached, rows.is_known), rows.folds, run.config.hidden_units)
    sample = sample_of(steps, run.config.seed)
    by_fold = [_controller(run, score, mlp, sample) for score, mlp in zip(scores.by_fold, mlps, strict=True)]
    return by_fold, _controller(run, scores.deployed, average(mlps), sample)


def _with_most_chosen(run: Run, controller: Controller, steps: Sequence[StepRows]) -> Run:
    """The same run with the kinds of action alone that a controller chooses most often in some steps."""
    features, times = np.concatenate([part.features for part in steps]), np.zeros(len(run.layout.profiles))
    for compression, costs in controller.config.costs.items():
        own = features[features[:, FEATURE_NAMES.index(f"compression_{compression}")] > 0.5]
        chosen = controller.policy(costs, compression, guard=False).best_actions(own)
        drafting = [run.actions[action] for action in chosen.tolist() if run.actions[action].width]
        np.add.at(times, [run.layout.profile_of(action) for action in drafting], 1)
    kept = np.argsort(-times, kind="stable")[: run.config.max_profiles].tolist()
    actions = run.layout.actions_of(kept)
    return replace(run, actions=actions, layout=CurveLayout(actions))


def _targets(run: Run, scores: Scores, steps: Sequence[StepRows]) -> CurveRows:
    chosen = at_most(steps, MAX_ROUND_STEPS, run.config.seed)
    return concatenate_curve_rows([curve_rows(part, run.layout, scores.by_fold, run.num_layers) for part in chosen])


def _controller(run: Run, score: LearnedScore, mlp: Mlp, sample: Sample) -> Controller:
    manifest = run.log.manifest
    config = ControllerConfig(
        exit_layers=tuple(manifest.exit_layers),
        num_layers=manifest.num_layers,
        model_fingerprint=manifest.model_fingerprint,
        compressions=tuple(run.statics),
        actions=run.actions,
        alpha=run.alpha,
        slopes=score.slopes,
        offsets=score.offsets,
        costs={data.compression: data.costs for data in run.levels},
        prompts_hash=manifest.prompts_hash,
        seed=run.config.seed,
        without_compression=run.config.without_compression,
        versions=versions_of(PACKAGES),
    )
    return Controller(config, score.mlp, mlp, sample, manifest.drafted_tokens())


def _judge_score(run: Run, score: LearnedScore) -> tuple[ExitFit, ...]:
    """Calibration of the exit score on the validation prompts, along steps of the best static action."""
    steps = at_most(run.first_steps(is_training=False), MAX_SCORE_STEPS, run.config.seed)
    rows = concatenate_score_rows([score_rows(part, run.layout.longest) for part in steps])
    logits = score.mlp(rows.inputs)[:, 0].astype(np.float64)
    fits = []
    for index, exit_layer in enumerate(score.exit_layers):
        chosen = rows.exit_index == index
        probability = sigmoid(score.slopes[index] * logits[chosen] + score.offsets[index])
        fits.append(fit_measures(exit_layer, probability, rows.confidence[chosen], rows.is_accepted[chosen]))
    return tuple(fits)


def _bare_name(name: str) -> str:
    """What to call a model or prompts elsewhere: a path says nothing there but its last part."""
    return Path(name).name if name.startswith(("/", "~", ".")) or name.count("/") > 1 else name


def without_nan(value: Any) -> Any:
    """The same with nan replaced by None, which JSON can say."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and isnan(value) else value
