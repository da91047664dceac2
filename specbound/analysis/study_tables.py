"""Tables of the studies as Markdown. Computes nothing."""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby

from specbound.analysis.live import LiveItem
from specbound.results.tables import Cells, markdown
from specbound_controller.figures import change, interval, number, share
from specbound_controller.ratio import ratio
from specbound_profiling.replay.studies import Ablation, StudyPoint
from specbound_profiling.report.study_plots import LivePoint

_FIGURES = ("speedup", "95 % interval", "tokens per step", "acceptance", "layer calls per token", "estimated")


def sensitivity_table(points: Sequence[StudyPoint]) -> str:
    """The base, then every value of every parameter; bold where it is the base's own."""
    base, rows = points[0], []
    for point in points:
        value = "" if point.parameter == "base" else f"{getattr(point.setting, point.parameter):g}"
        if value and point.setting == base.setting:
            value = f"**{value}**"
        rows.append([point.parameter, value, *_figures(point)])
    return markdown(Cells("", ["parameter", "value", *_FIGURES], rows, 2))


def ablation_table(rows: Sequence[Ablation]) -> str:
    """One row for each part, with the base's threshold, then with one that was chosen for what is left."""
    base = rows[0].fixed
    cells = [
        [
            row.fixed.label,
            *_figures(row.fixed),
            _change(row.fixed, base),
            f"{row.tuned.setting.threshold:g}",
            number(row.tuned.speedup, 3),
        ]
        for row in rows
    ]
    return markdown(Cells("", ["setting", *_FIGURES, "change", "threshold chosen again", "speedup"], cells))


def _change(point: StudyPoint, base: StudyPoint) -> str:
    if point is base:
        return ""
    if point.setting == base.setting and point.result.seconds.tolist() == base.result.seconds.tolist():
        return "same setting"
    return change(ratio(point.speedup, base.speedup) - 1)


def live_table(items: Sequence[LiveItem], points: Mapping[str, LivePoint]) -> str:
    """Replayed against live, three figures for each setting, and the speedup over plain decoding."""
    names = ("tokens per step", "layer calls per token", "tokens per second")
    rows = []
    for policy, of_policy in groupby(items, key=lambda item: item.policy):
        found = {item.item: item for item in of_policy}
        cells = []
        for name in names:
            item = found[name]
            cells.append(f"{number(item.replayed, 2)} / {number(item.live, 2)} ({change(item.deviation)})")
        point = points.get(policy)
        speedup = "" if point is None else f"{number(point.replayed_speedup, 3)} / {number(point.speedup, 3)}"
        rows.append([policy, str(item.num_prompts), *cells, speedup])
    return markdown(Cells("", ["replayed / live", "prompts", *names, "speedup"], rows))


def _figures(point: StudyPoint) -> list[str]:
    result, low, high = point.result, point.speedup_low, point.speedup_high
    estimated, error = result.estimated_share, result.estimated_share_error
    margin = "" if estimated == 0 else " ± ?" if math.isnan(error) else f" ± {error:.1%}"
    return [
        number(point.speedup, 3),
        interval(low, high, 3),
        number(result.tokens_per_step, 2),
        number(result.acceptance_rate, 2),
        number(result.layer_calls_per_token, 2),
        "–" if result.estimates is None else f"{share(estimated, 1)}{margin}",
    ]
