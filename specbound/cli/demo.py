"""`specbound demo`: parse, run the chain, print one table."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from specbound.cli.parsing import parse_config
from specbound.cli.shipped import shipped_config
from specbound.demo.config import DemoConfig
from specbound_controller.errors import InputError

if TYPE_CHECKING:
    from specbound.demo.run import DemoResult


def run(argv: Sequence[str]) -> int:
    config = parse_config(DemoConfig, "demo", with_sizes(argv))
    from specbound.cli.edge import set_up
    from specbound.demo.run import run_demo
    from specbound.results.report import build_report, check_destination, write_report

    check_destination(config.json)
    set_up(config.threads)
    result = run_demo(config, lambda line: print(line, file=sys.stderr, flush=True))
    if config.json != "-":
        _print_table(result)
    if config.json is not None:
        write_report(build_report(result.rows, result.model, notes=result.notes), config.json)
    return 0 if result.is_trustworthy else 1


def with_sizes(argv: Sequence[str]) -> list[str]:
    """The command line with the YAML file that holds the sizes in place of `--quick` or of nothing."""
    is_quick = "--quick" in argv
    options = [option for option in argv if option != "--quick"]
    if any(option.partition("=")[0] == "--config" for option in options):
        if is_quick:
            raise InputError("--quick must not be given with --config: both choose the sizes")
        return options
    return ["--config", str(shipped_config("demo_quick.yaml" if is_quick else "demo.yaml")), *options]


def _print_table(result: "DemoResult") -> None:
    from rich.console import Console

    from specbound.results.tables import results_table

    console = Console()
    console.print(results_table(result.rows))
    for note in result.notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
