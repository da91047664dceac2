"""`specbound report`: parse, write the page, print a summary."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from specbound.cli.edge import hand_over, set_up, show
from specbound.cli.parsing import parse_config
from specbound_controller.figures import number
from specbound_profiling.report.config import ReportConfig

if TYPE_CHECKING:
    from specbound.analysis.calibration import CalibrationReport
    from specbound_profiling.report.records import LivePolicy


@dataclass(frozen=True, slots=True)
class ReportCommand(ReportConfig):
    """Shows how far every exit layer's confidence can be trusted: plots, tables and one page with a token view."""

    json: str | None = None
    """File for the figures as JSON; - is standard output, where the summary is left out."""


def run(argv: Sequence[str]) -> None:
    config = parse_config(ReportCommand, "report", argv)
    set_up(config)
    from pathlib import Path

    from specbound.analysis.calibration import write_calibration_report
    from specbound.results.report import logged_model

    result = write_calibration_report(config)
    model = logged_model(Path(config.log).expanduser())
    hand_over(config.json, lambda: _print(result), [], model, calibration=[asdict(level) for level in result.levels])


def _print(result: "CalibrationReport") -> None:
    from specbound.results.tables import Cells

    headings = ("exit", "accepted", "own T", "ECE plain", "annealed", "logistic", "isotonic", "AUROC plain")
    for level in result.levels:
        rows = []
        for each in level.of_task("all"):
            errors = [each.measures[name].ece for name in ("plain", "annealed", "logistic", "isotonic")]
            own = number(level.own_temperatures[each.exit_layer], 2) + "*" * (each.exit_layer in level.exits_at_edge)
            figures = (number(value, 3) for value in (*errors, each.measures["plain"].auroc))
            rows.append((str(each.exit_layer), number(each.acceptance, 3), own, *figures))
        title = f"{level.compression}: likely alpha {number(level.likely_alpha, 2)}, {level.num_judged} prompts judge"
        low, high = level.temperature_range
        edge = f"* at the edge of the log's temperatures, {low:g} to {high:g}: the best one may lie beyond"
        live = [f"{level.compression}, live, {_live_line(each)}" for each in level.live]
        show(Cells(title, headings, rows, 0), notes=[*([edge] if level.exits_at_edge else []), *live])
    show(f"page: {result.files[0]}")


def _live_line(live: "LivePolicy") -> str:
    drafts = live.drafts
    scored = (
        f"{drafts.num_scored} drafts that a score let pass: mean score {number(drafts.score, 3)}, accepted "
        f"{number(drafts.scored_acceptance, 3)}, ECE {number(drafts.measures.ece, 3)}"
    )
    unscored = f"{drafts.num_judged} drafts without a score: accepted {number(drafts.acceptance, 3)}"
    return (
        f"{live.policy}: {live.num_prompts} prompts, {number(live.tokens_per_step, 2)} tokens per step; "
        f"{scored if drafts.num_scored else unscored}"
    )
