"""SpecBound's studies on a log: the base setting, the points, tables and a plot. What `specbound sensitivity` and
`specbound ablation` do.

Knows no command line. Nothing here decodes but what `specbound.analysis.live` is asked to.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from specbound.analysis.live import LiveItem, compare_live
from specbound.analysis.replay import log_costs
from specbound.analysis.studies_config import AblationConfig, SensitivityConfig, StudyConfig
from specbound.analysis.study_tables import ablation_table, live_table, sensitivity_table
from specbound.results.files import make_folder, write_file
from specbound.results.report import logged_model
from specbound.results.rows import Row
from specbound_controller.errors import InputError
from specbound_controller.policy import Policy, StaticPolicy
from specbound_controller.ratio import ratio
from specbound_profiling.log.store import StepLog, open_log
from specbound_profiling.replay.annealing import largest_alpha
from specbound_profiling.replay.studies import (
    Setting,
    StudyData,
    StudyPoint,
    ablation,
    best_setting,
    halves,
    sensitivity,
)
from specbound_profiling.replay.trace_batch import TraceBatch
from specbound_profiling.report.plots import png
from specbound_profiling.report.study_plots import LivePoint, ablation_figure, sensitivity_figure

MIN_PROMPTS = 2
"""Fewest prompts: one to search on, one to judge."""

Say = Callable[[str], None]


@dataclass(slots=True)
class Study:
    """The tables, and what has to be said beside them."""

    model: dict[str, Any]
    text: str = ""
    """Tables as Markdown, with the notes."""
    rows: list[Row] = field(default_factory=list)
    """Plain decoding and the base setting."""
    points: list[dict[str, Any]] = field(default_factory=list)
    """Every setting that was replayed, with its figures."""
    live: list[LiveItem] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    """The table first, then the plot."""
    num_bugs: int = 0
    """Live outputs that are not the log's, and that rounding does not explain."""


@dataclass(frozen=True, slots=True)
class _Open:
    """A log, opened for a study."""

    log: StepLog
    compression: str
    data: StudyData
    base: Setting
    choices: dict[str, Sequence[float]]
    notes: list[str]


def run_sensitivity(config: SensitivityConfig, say: Say) -> Study:
    """Varies one parameter at a time around the base. `say` gets a line as each stage begins.

    Raises:
        InputError: no finished log, a value that does not fit it, or a folder that cannot be written to.
    """
    study = _open(config, say)
    say("varying one parameter at a time")
    points = sensitivity(study.data, study.base, study.choices)
    chosen = _spread_points(points, config.live)
    items, notes, num_bugs = _measure(config, study, {p.label: p.setting for p in chosen}, say)
    text = sensitivity_table(points)
    figure = sensitivity_figure(points, _live_points(items))
    return _finish(config, study, "sensitivity", points, text, figure, items, notes, num_bugs)


def run_ablation(config: AblationConfig, say: Say) -> Study:
    """Takes one part away at a time. `say` and errors as above."""
    study = _open(config, say)
    say("taking one part away at a time")
    longest = study.log.manifest.max_new_tokens
    rows = ablation(study.data, study.base, config.thresholds, longest, study.compression)
    chosen = [row.fixed for row in rows if row.fixed.label != "without kept hidden states"][: config.live]
    items, notes, num_bugs = _measure(config, study, {p.label: p.setting for p in chosen}, say)
    notes = [
        f"Without the depth bound a draft may go to exit {max(study.base.exit_layers)}, the deepest that is read; "
        f"without the width bound to {longest} tokens, more than any text has. Without kept hidden states, "
        "verification runs all layers of all its tokens again: counted work, replay only.",
        *notes,
    ]
    points = [point for row in rows for point in (row.fixed, row.tuned)]
    text, figure = ablation_table(rows), ablation_figure(rows, _live_points(items))
    return _finish(config, study, "ablation", points, text, figure, items, notes, num_bugs)


def _open(config: StudyConfig, say: Say) -> _Open:
    log = open_log(config.log)
    make_folder(config.out)
    manifest = log.manifest
    compression = manifest.compressions[0] if config.compression == "auto" else config.compression
    traces = [trace for trace in log.traces(compression) if trace.num_positions > 1]
    searched, judged = halves(traces)
    if min(len(searched), len(judged)) < 1:
        raise InputError(
            f"a study needs at least {MIN_PROMPTS} prompts of one kind with more than one token, got {len(traces)} "
            f"({log.root})"
        )
    costs, source = log_costs(config.costs, log, compression, config.exits)
    data = StudyData(TraceBatch(searched), TraceBatch(judged), costs, manifest.num_layers, config.seed)
    exits = manifest.exit_layers if config.exit_layers == "auto" else tuple(sorted(set(config.exit_layers)))
    for exit_layer in exits:
        data.judged.exit_index(exit_layer)  # refuses one that was not recorded
    say(f"{compression}: searching the base setting on {len(searched)} of {len(traces)} prompts")
    base, choices = _base(config, data, exits)
    notes = [
        f"Base: {base}, exits {', '.join(map(str, base.exit_layers))}"
        + ("; given." if None not in _given(config).values() else f"; searched on {len(searched)} prompts."),
        f"Figures: replay of {len(judged)} other prompts at {compression}, {source}; prefill left out. Speedups are "
        "over plain decoding by the same table.",
    ]
    return _Open(log, compression, data, base, choices, notes)


def _given(config: StudyConfig) -> dict[str, float | None]:
    return {"alpha": config.alpha, "threshold": config.threshold, "d_max": config.d_max, "w_max": config.w_max}


def _base(config: StudyConfig, data: StudyData, exits: tuple[int, ...]) -> tuple[Setting, dict[str, Sequence[float]]]:
    """The base setting, what is not given being searched, and the values of each parameter to vary."""
    given = {name: value for name, value in _given(config).items() if value is not None}
    if config.d_max is not None and config.d_max < min(exits):
        raise InputError(f"d_max must be at least the shallowest exit, {min(exits)}, got {config.d_max}")
    covered = largest_alpha(exits, data.judged.temperatures, data.num_layers) + 1e-9
    if config.alpha is not None and config.alpha > covered:
        raise InputError(f"alpha must be at most {covered:.2f}, what the log's temperatures cover, got {config.alpha}")
    alphas = [alpha for alpha in config.alphas if alpha <= covered] or [0.0]
    all_choices = {"alpha": alphas, "threshold": config.thresholds, "d_max": exits, "w_max": config.widths}
    free = {name: values for name, values in all_choices.items() if name not in given}
    found = []
    for first in range(len(exits) if config.exit_layers == "auto" else 1):
        subset = exits[first:]
        if config.d_max is not None and config.d_max < subset[0]:
            break
        middle = {"alpha": alphas[0], "threshold": 0.5, "d_max": subset[len(subset) // 2], "w_max": 4} | given
        start = Setting(subset, middle["alpha"], middle["threshold"], int(middle["d_max"]), int(middle["w_max"]))
        found.append(best_setting(start, free | ({"d_max": subset} if "d_max" in free else {}), data.seconds))
    base = min(found, key=data.seconds)
    return base, all_choices | {"d_max": base.exit_layers}


def _spread_points(points: Sequence[StudyPoint], count: int) -> list[StudyPoint]:
    """The base, then each parameter's lowest value, then each one's highest, as far as they differ from the base's."""
    base = points[0]
    others = [point for point in points[1:] if point.setting != base.setting]
    parameters = dict.fromkeys(point.parameter for point in others)
    of = {name: [point for point in others if point.parameter == name] for name in parameters}
    ends = [of[name][0] for name in parameters] + [of[name][-1] for name in parameters]
    return list({point.label: point for point in (base, *ends)}.values())[:count]


def _measure(
    config: StudyConfig, study: _Open, settings: dict[str, Setting], say: Say
) -> tuple[list[LiveItem], list[str], int]:
    """The settings beside plain decoding, live; nothing where none is asked for."""
    if not settings:
        return [], [], 0
    say(f"decoding {config.live_prompts} prompts, plain and with {len(settings)} settings, {config.live_rounds} times")
    policies: dict[str, Callable[[], Policy]] = {"plain": partial(StaticPolicy, ())}
    policies |= {label: setting.policy for label, setting in settings.items()}
    found = compare_live(
        study.log, study.compression, study.data.costs, config.live_prompts, policies, config.live_rounds
    )
    notes = [
        f"Live: medians of {config.live_rounds} rounds, interleaved, by the clock that cost tables are measured with; "
        "the first step of each prompt is left out."
    ]
    return found.items, notes + found.differences, found.num_bugs


def _live_points(items: Sequence[LiveItem]) -> dict[str, LivePoint]:
    """Policy -> speedup over plain decoding and tokens per step, on the prompts that were decoded."""
    found = {(each.policy, each.item): each for each in items}
    points = {}
    for policy in dict.fromkeys(each.policy for each in items if each.policy != "plain"):
        speed, plain = found[policy, "tokens per second"], found["plain", "tokens per second"]
        steps = found[policy, "tokens per step"]
        points[policy] = LivePoint(
            speedup=ratio(speed.live, plain.live),
            replayed_speedup=ratio(speed.replayed, plain.replayed),
            tokens_per_step=steps.live,
            replayed_tokens_per_step=steps.replayed,
        )
    return points


def _finish(
    config: StudyConfig,
    study: _Open,
    name: str,
    points: Sequence[StudyPoint],
    table: str,
    figure: Figure,
    items: list[LiveItem],
    notes: list[str],
    num_bugs: int,
) -> Study:
    """Writes the table and the plot."""
    parts = [table, *([live_table(items, _live_points(items))] if items else [])]
    text = "\n".join([*parts, "\n".join(f"* {note}" for note in (*study.notes, *notes)), ""])
    out = Path(config.out).expanduser()
    return Study(
        model=logged_model(study.log.root),
        text=text,
        rows=_rows(study, points[0]),
        points=[_values(point) for point in points],
        live=items,
        files=[
            write_file(out / f"{name}.md", text.encode("utf-8")),
            write_file(out / f"{name}.png", png(figure)),
        ],
        num_bugs=num_bugs,
    )


def _rows(study: _Open, base: StudyPoint) -> list[Row]:
    result = base.result
    row = Row.of(
        result.counts,
        method="static",
        compression=study.compression,
        task="all",
        num_prompts=len(result.prompt_ids),
        speedup=base.speedup,
        speedup_low=base.speedup_low,
        speedup_high=base.speedup_high,
        exactness=study.log.manifest.exactness_of(study.compression),
        simulated=True,
    )
    plain = replace(
        row,
        method="plain",
        tokens_per_second=result.tokens_per_second / base.speedup,
        tokens_per_step=1.0,
        acceptance_rate=math.nan,
        layer_calls_per_token=float(study.data.num_layers),
        speedup=1.0,
        speedup_low=math.nan,
        speedup_high=math.nan,
    )
    return [plain, row]


def _values(point: StudyPoint) -> dict[str, Any]:
    """For a report."""
    result = point.result
    return {
        "label": point.label,
        "parameter": point.parameter,
        **asdict(point.setting),
        "speedup": point.speedup,
        "speedup_low": point.speedup_low,
        "speedup_high": point.speedup_high,
        "tokens_per_second": result.tokens_per_second,
        "tokens_per_step": result.tokens_per_step,
        "acceptance_rate": result.acceptance_rate,
        "layer_calls_per_token": result.layer_calls_per_token,
        "estimated_share": math.nan if result.estimates is None else result.estimated_share,
        "estimated_share_error": result.estimated_share_error,
    }
