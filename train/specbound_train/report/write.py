"""The report of a training run, beside its controller: loss curves, importance of the features, chosen widths.

PNG for people (left out where matplotlib is not installed), JSON and CSV for machines.
"""

import csv
import importlib.util
import io
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from specbound_controller.controller import Controller
from specbound_controller.controller_policy import ControllerPolicy
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.replay.batch import play_rounds
from specbound_profiling.replay.trace_batch import TraceBatch
from specbound_train.collecting import at_most, replay_training, without_guard
from specbound_train.data import LevelData
from specbound_train.fitting import FittedController, without_nan
from specbound_train.modules import LossCurve
from specbound_train.report.importance import MAX_FOREST_ROWS, Importance, importance
from specbound_train.rows import concatenate_curve_rows, curve_rows

REPORT_FILE = "report.json"
CURVES_FILE = "loss_curves.csv"
MAX_PROMPTS = 200
"""Most validation prompts of a level that are replayed for the chosen widths."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What `report.json` holds."""

    importance: Importance
    widths: dict[str, dict[int, int]]
    """Level, with its temperature where sampled -> width bound -> steps of the validation prompts for which the step
    policy chose it, replayed without the guard; also where the controller plays one action instead."""


def write_report(fitted: FittedController, seed: int, folder: Path) -> TrainingReport:
    """Writes the files; each appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    report = TrainingReport(_importance(fitted, seed), _widths(fitted))
    _write(folder / CURVES_FILE, _curves_csv(fitted.curves).encode())
    _write(folder / REPORT_FILE, (json.dumps(without_nan(asdict(report)), indent=1) + "\n").encode())
    if importlib.util.find_spec("matplotlib") is None:
        _log.warning("matplotlib is not installed, so %s holds no pictures: pip install 'specbound[report]'", folder)
        return report
    from specbound_train.report.plots import curves_png, importance_png, widths_png

    _write(folder / "loss_curves.png", curves_png(fitted.curves))
    _write(folder / "importance.png", importance_png(report.importance))
    _write(folder / "widths.png", widths_png(report.widths))
    return report


def _step_player(fitted: FittedController) -> Controller:
    """The controller with its step policy at every level."""
    controller = fitted.controller
    return replace(controller, config=replace(controller.config, static_actions={}))


def _importance(fitted: FittedController, seed: int) -> Importance:
    controller = _step_player(fitted)
    num_layers, layout = controller.config.num_layers, controller.step_policy.layout
    judged = []
    for data in fitted.levels:
        traces = _some(data.validation)
        folds = np.zeros(len(traces), dtype=np.int64)
        judged.append(replace(data, training=traces, folds=folds, validation=()))
    _, steps = replay_training(judged, without_guard([controller]), num_layers)
    steps = at_most(steps, MAX_FOREST_ROWS, seed)
    curves = concatenate_curve_rows([curve_rows(part, layout, [controller.score], num_layers) for part in steps])
    return importance(fitted.steps, steps, curves, controller.step_mlp, seed)


def _widths(fitted: FittedController) -> dict[str, dict[int, int]]:
    controller, counts = _step_player(fitted), {}
    for data in fitted.levels:
        policy = controller.policy(data.costs, data.compression, guard=False)
        counts[data.name] = _chosen_widths(policy, data, controller.config.num_layers)
    return counts


def _chosen_widths(policy: ControllerPolicy, data: LevelData, num_layers: int) -> dict[int, int]:
    batch = TraceBatch(_some(data.validation))
    rounds = play_rounds(batch, policy, data.costs, num_layers, data.compression)
    chosen = np.concatenate([each.decision for each in rounds])
    widths = np.array([decision.w_max for decision in policy.decisions])[chosen]
    return {int(width): int((widths == width).sum()) for width in sorted({d.w_max for d in policy.decisions})}


def _some(traces: tuple[PromptTrace, ...]) -> tuple[PromptTrace, ...]:
    """At most `MAX_PROMPTS` of them, spread over all."""
    return traces[:: max(1, -(-len(traces) // MAX_PROMPTS))]


def _curves_csv(curves: Mapping[str, LossCurve]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("fit", "epoch", "train_loss", "tune_loss"))
    for name, curve in curves.items():
        for epoch, (train, tune) in enumerate(zip(curve.train_loss, curve.tune_loss, strict=True)):
            writer.writerow((name, epoch, "" if math.isnan(train) else f"{train:.6f}", f"{tune:.6f}"))
    return text.getvalue()


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)
