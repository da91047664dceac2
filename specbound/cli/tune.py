"""`specbound tune`: parse, choose the constants of every policy, print one table for each compression level."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from specbound.cli.edge import say, set_up, show
from specbound.cli.parsing import parse_config
from specbound_controller.figures import number, times
from specbound_controller.ratio import ratio
from specbound_train.tuning.config import TuneConfig

if TYPE_CHECKING:
    from specbound.policies import TunedPolicies


FEW_PROMPTS = 24
"""Prompts below which constants are tuned to chance."""


def run(argv: Sequence[str]) -> None:
    config = parse_config(TuneConfig, "tune", argv)
    set_up(config)
    from pathlib import Path

    from specbound.analysis.logged import check_exits
    from specbound.analysis.replay import log_costs, require_all_tokens
    from specbound.policies import TunedPolicies
    from specbound.results.report import check_destination
    from specbound_profiling.log.store import open_log
    from specbound_train.tuning.tune import tune_log

    check_destination(config.out)
    log = open_log(Path(config.log).expanduser())
    require_all_tokens(log, "tune")
    check_exits(log.manifest, config.exits)
    costs = {level: log_costs(config.costs, log, level, config.exits)[0] for level in log.manifest.compressions}
    file = tune_log(log, costs, config.seed, say)
    file.save(Path(config.out).expanduser())
    _print(TunedPolicies(file, config.out))
    if file.num_prompts < FEW_PROMPTS:
        show(f"warning: tuned on {file.num_prompts} prompts; at least {FEW_PROMPTS} are needed: profile more")
    show(
        f"next: specbound evaluate --model {log.manifest.model} --policies {config.out} --prompts OTHERS measures them "
        "by the clock"
    )


def _print(policies: "TunedPolicies") -> None:
    from specbound.results.tables import Cells

    for compression, level in policies.file.levels.items():
        title = f"{compression}, replayed on the prompts tuned on: {policies.file.num_prompts}"
        rows = [
            (
                name.replace("_", " "),
                number(tuned.tokens_per_second, 1),
                times(ratio(tuned.tokens_per_second, level.plain_tokens_per_second), 3),
                str(tuned.num_candidates),
            )
            for name, tuned in sorted(level.everything.items(), key=lambda item: -item[1].tokens_per_second)
        ]
        constants = [f"{compression}, {name}: {policies.describe(name, compression)}" for name in level.everything]
        show(Cells(title, ("policy", "tokens per s", "speedup", "settings tried"), rows), notes=(*constants, ""))
