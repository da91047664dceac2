"""`specbound verify`: parse, decode both ways, print a table and every difference."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from specbound.cli.parsing import parse_config
from specbound.evaluation.verify_config import VerifyConfig

if TYPE_CHECKING:
    from specbound.evaluation.verify import Verification


def run(argv: Sequence[str]) -> int:
    config = parse_config(VerifyConfig, "verify", argv)
    from specbound.cli.edge import set_up
    from specbound.evaluation.verify import verify
    from specbound.results.report import build_report, check_destination, write_report

    check_destination(config.json)
    set_up(config.threads)
    result = verify(config, lambda line: print(line, file=sys.stderr, flush=True))
    if config.json != "-":
        _print(result)
    if config.json is not None:
        sampling = config.generate_arguments()
        differences = result.differences()
        write_report(build_report(result.rows, result.model, sampling=sampling, differences=differences), config.json)
    return 1 if result.num_bugs else 0


def _print(result: "Verification") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for name in ("compression", "policy", "exactness"):
        table.add_column(name, no_wrap=True)
    for name in ("prompts", "tokens", "drafted", "differing\nprompts", "near-ties", "bugs"):
        table.add_column(name, justify="right")
    for each in result.comparisons:
        counts = (each.num_prompts, each.num_tokens, each.stats.num_drafted)
        verdicts = (len(each.differences), each.num_near_ties, each.num_bugs)
        table.add_row(each.compression, each.policy, each.exactness, *map(str, (*counts, *verdicts)))
    console = Console()
    console.print(table)
    for note in result.notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
