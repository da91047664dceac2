"""`specbound tune`: parse, choose the constants of every policy, print one table for each compression level."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from specbound.cli.parsing import parse_config
from specbound_train.tuning.config import TuneConfig

if TYPE_CHECKING:
    from specbound.policies import TunedPolicies


def run(argv: Sequence[str]) -> None:
    config = parse_config(TuneConfig, "tune", argv)
    from pathlib import Path

    from specbound.analysis.replay import log_costs, require_all_tokens
    from specbound.cli.edge import set_up
    from specbound.policies import TunedPolicies
    from specbound.results.report import check_destination
    from specbound_profiling.log.store import open_log
    from specbound_train.tuning.tune import tune_log

    check_destination(config.out)
    set_up()
    log = open_log(Path(config.log).expanduser())
    require_all_tokens(log, "tune")
    costs = {level: log_costs(config.costs, log, level)[0] for level in log.manifest.compressions}
    file = tune_log(log, costs, config.seed, lambda line: print(line, file=sys.stderr, flush=True))
    file.save(Path(config.out).expanduser())
    _print(TunedPolicies(file, config.out))


def _print(policies: "TunedPolicies") -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for compression, level in policies.file.levels.items():
        title = f"{compression}, replayed on the prompts tuned on: {policies.file.num_prompts}"
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
        for name in ("policy", "tokens per s", "speedup", "settings tried"):
            table.add_column(name, justify="left" if name == "policy" else "right", no_wrap=True)
        plain = level.plain_tokens_per_second
        for name, tuned in sorted(level.policies.items(), key=lambda item: -item[1].tokens_per_second):
            speed = tuned.tokens_per_second
            table.add_row(name.replace("_", " "), f"{speed:.1f}", f"{speed / plain:.3f}x", str(tuned.num_candidates))
        console.print(table)
        for name in level.policies:
            line = f"{compression}, {name}: {policies.describe(name, compression)}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        console.print()
