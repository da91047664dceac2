"""`specbound costs`: parse, measure, print the prices and the check."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from specbound.cli.edge import hand_over, say, set_up, show
from specbound.cli.parsing import parse_config
from specbound.pricing.config import CostsConfig
from specbound_controller.figures import number, share
from specbound_controller.ratio import ratio

if TYPE_CHECKING:
    from specbound.pricing.costs import Costs
    from specbound.results.tables import Cells
    from specbound_profiling.costs.check import KindCheck


def run(argv: Sequence[str]) -> int:
    config = parse_config(CostsConfig, "costs", argv)
    set_up(config)
    from specbound.pricing.costs import measure_all

    if config.plot is not None:
        from specbound_profiling.costs.plot import plot_residuals  # first: without matplotlib nothing is measured
    costs = measure_all(config, say)
    if config.plot is not None:
        plot_residuals(costs.measurements, Path(config.plot).expanduser())
    tables = {level: asdict(measured.table) for level, measured in costs.measurements.items()}
    checks = {level: [asdict(kind) | {"ratio": kind.ratio} for kind in kinds] for level, kinds in costs.checks.items()}
    hand_over(config.json, lambda: _print(costs), [], costs.model, costs=tables, checks=checks)
    return 0 if costs.is_within else 1


def _print(costs: "Costs") -> None:
    from specbound.results.tables import Cells

    tables = [measured.table for measured in costs.measurements.values()]
    names = list(tables[0].coefficients)
    prices = [[name.replace("_", " "), *(f"{each.coefficients[name] * 1e6:.1f}" for each in tables)] for name in names]
    facts = [
        ["median error of steps left out", *(share(each.held_out_error, 1) for each in tables)],
        ["steps", *(str(each.num_steps) for each in tables)],
        ["speed probe", *("–" if each.probe_s is None else f"{each.probe_s * 1e6:.1f}" for each in tables)],
        ["exactness", *(each.exactness for each in tables)],
    ]
    checks = [_check(level, kinds) for level, kinds in costs.checks.items()]
    headings = ("microseconds", *costs.measurements)
    show(Cells("", headings, [*prices, *facts], starts=[len(prices)]), *checks)


def _check(level: str, kinds: "Sequence[KindCheck]") -> "Cells":
    from specbound.results.tables import Cells

    rows = []
    for kind in sorted(kinds, key=lambda kind: kind.num_tokens / kind.live_s):
        seconds = (kind.live_s, kind.predicted_s)
        per_step = (number(ratio(each, kind.num_steps) * 1e3, 2) for each in seconds)
        speeds = (number(ratio(kind.num_tokens, each), 1) for each in seconds)
        rows.append((kind.kind, str(kind.num_steps), *per_step, number(kind.ratio, 3), *speeds))
    headings = ("kind of step", "steps", "live\nms", "pred.\nms", "live /\npred.", "live\ntok/s", "pred.\ntok/s")
    return Cells(f"{level}, live against predicted, each step on average", headings, rows)
