"""The calibration report: a log in; figures, plots and one page out. What `specbound report` does.

Knows no command line. No model runs: of the model only the tokenizer is loaded, to show text instead of ids.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from specbound import __version__
from specbound.models.loading import load_tokenizer
from specbound.results.files import make_folder, write_file
from specbound_controller.errors import InputError
from specbound_profiling.log.store import StepLog, open_log
from specbound_profiling.report.config import ReportConfig
from specbound_profiling.report.page import LevelSection, build_page
from specbound_profiling.report.plots import acceptance_figure, groups_figure, png, reliability_figure
from specbound_profiling.report.records import LevelCalibration
from specbound_profiling.report.tokens import Decode, view_level
from specbound_profiling.report.trees import view_trees
from specbound_train.calibration.of_live_steps import calibrate_live
from specbound_train.calibration.of_log import calibrate, judged_prompts

logger = logging.getLogger(__name__)
PAGE_NAME = "report.html"
NUM_TREE_TEXTS = 3
"""Texts that are coloured by source, of each policy that drafts trees."""


@dataclass(slots=True)
class CalibrationReport:
    """What was found and where it lies."""

    levels: list[LevelCalibration] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    """The page first, then the plots."""


def write_calibration_report(config: ReportConfig) -> CalibrationReport:
    """Calibrates every compression level of the log and writes the page and the plots into `config.out`.

    Raises:
        InputError: no finished log, too few prompts, no such model, or a folder that cannot be written to.
    """
    log = open_log(config.log)
    decode = _decoder(config, log)
    out = make_folder(config.out)
    plots: dict[str, bytes] = {}
    sections, judged = [], None
    for compression in log.manifest.compressions:
        traces = log.traces(compression)
        judged = judged_prompts(traces, config.judged_share, config.seed) if judged is None else judged
        usable = [trace for trace in traces if trace.num_positions > 1]
        fitted = [trace for trace in usable if trace.prompt_id not in judged]
        others = [trace for trace in usable if trace.prompt_id in judged]
        num_layers = log.manifest.num_layers
        level = calibrate(fitted, others, num_layers, config.alpha)
        steps = list(log.live_steps(compression).values())
        live = map(calibrate_live, steps)
        level = replace(level, live=tuple(each for each in live if each.num_drafted))
        trees = [view_trees(runs, traces, min(config.num_viewed, NUM_TREE_TEXTS), decode) for runs in steps]
        view = view_level(traces, level.alpha, num_layers, config.num_viewed, decode) if config.num_viewed else None
        own = {
            "Reliability": ("reliability", png(reliability_figure(level))),
            "Acceptance by confidence and by entropy": ("acceptance", png(acceptance_figure(level))),
        }
        if len(level.tasks) > 1:
            own["By kind of content"] = ("content", png(groups_figure({t: level.of_task(t) for t in level.tasks})))
        plots |= {f"{name}-{compression}.png": content for name, content in own.values()}
        images = {caption: content for caption, (_, content) in own.items()}
        sections.append(LevelSection(level, view, images, [each for each in trees if each is not None]))
    levels = [section.calibration for section in sections]
    overview = (
        png(groups_figure({each.compression: each.of_task("all") for each in levels})) if len(levels) > 1 else None
    )
    if overview is not None:
        plots["levels.png"] = overview
    page = build_page(_facts(log, levels), sections, overview).encode("utf-8")
    return CalibrationReport(
        levels, [write_file(out / name, content) for name, content in {PAGE_NAME: page, **plots}.items()]
    )


def _decoder(config: ReportConfig, log: StepLog) -> Decode | None:
    """Token ids -> text by the tokenizer that the config names, else by the log's model's; None shows ids."""
    if config.model == "none" or not config.num_viewed:
        return None
    name = log.manifest.model if config.model is None else config.model
    try:
        tokenizer = load_tokenizer(name, is_local=config.model is None)
    except InputError as error:
        if config.model is not None:
            raise
        logger.warning("the token view shows ids: %s; --model names another tokenizer", error)
        return None
    vocabulary = len(tokenizer)

    def decode(ids: Sequence[int]) -> str:
        known = [i for i in ids if 0 <= i < vocabulary]  # a head may be wider than the tokenizer
        return str(tokenizer.decode(known, clean_up_tokenization_spaces=False))

    return decode


def _facts(log: StepLog, levels: Sequence[LevelCalibration]) -> dict[str, str]:
    manifest = log.manifest
    sampling = " ".join(f"{k}={v}" for k, v in manifest.sampling.items() if k != "do_sample")
    return {
        "model": f"{Path(manifest.model).name} ({manifest.num_layers} layers, {manifest.model_fingerprint[:12]})",
        "prompts": f"{manifest.num_prompts} of {Path(manifest.prompts).name}",
        "decoding": sampling or "greedy",
        "compression": ", ".join(level.compression for level in levels),
        "versions": ", ".join(f"{name} {manifest.versions[name]}" for name in sorted(manifest.versions)),
        "made by": f"specbound {__version__}",
    }
