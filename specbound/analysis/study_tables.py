"""Tables of the studies as Markdown. Computes nothing."""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby

from specbound.analysis.live import LiveItem
from specbound.results.rows import interval, number
from specbound.results.tables import Cells, markdown
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
            f"{row.tuned.speedup:.3f}",
        ]
        for row in rows
    ]
    return markdown(Cells("", ["setting", *_FIGURES, "change", "threshold chosen again", "speedup"], cells))


def _change(point: StudyPoint, base: StudyPoint) -> str:
    if point is base:
        return ""
    if point.setting == base.setting and point.result.seconds.tolist() == base.result.seconds.tolist():
        return "same setting"
    return f"{point.speedup / base.speedup - 1:+.1%}"


def live_table(items: Sequence[LiveItem], points: Mapping[str, LivePoint]) -> str:
    """Replayed against live, three figures for each setting, and the speedup over plain decoding."""
    names = ("tokens per step", "layer calls per token", "tokens per second")
    rows = []
    for policy, of_policy in groupby(items, key=lambda item: item.policy):
        found = {item.item: item for item in of_policy}
        cells = []
        for name in names:
            item = found[name]
            cells.append(f"{item.replayed:.2f} / {item.live:.2f} ({item.deviation:+.1%})")
        point = points.get(policy)
        speedup = "" if point is None else f"{point.replayed_speedup:.3f} / {point.speedup:.3f}"
        rows.append([policy, str(item.num_prompts), *cells, speedup])
    return markdown(Cells("", ["replayed / live", "prompts", *names, "speedup"], rows))


def _figures(point: StudyPoint) -> list[str]:
    result, low, high = point.result, point.speedup_low, point.speedup_high
    share, error = result.estimated_share, result.estimated_share_error
    margin = "" if share == 0 else " ± ?" if math.isnan(error) else f" ± {error:.1%}"
    return [
        f"{point.speedup:.3f}",
        interval(low, high, 3),
        f"{result.tokens_per_step:.2f}",
        number(result.acceptance_rate, 2),
        f"{result.layer_calls_per_token:.2f}",
        "–" if result.estimates is None else f"{share:.1%}{margin}",
    ]
