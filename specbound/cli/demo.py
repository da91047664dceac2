"""`specbound demo`: parse, run the chain, print one table."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from specbound.cli.parsing import parse_config
from specbound.config import DemoConfig, shipped_config
from specbound_controller.errors import InputError

if TYPE_CHECKING:
    from specbound.demo import DemoResult


def run(argv: Sequence[str]) -> int:
    has_config = any(option.partition("=")[0] == "--config" for option in argv)
    if has_config and "--quick" in argv:
        raise InputError("--quick must not be given with --config: both choose the sizes")
    if not has_config:
        name = "demo_quick.yaml" if "--quick" in argv else "demo.yaml"
        argv = ["--config", str(shipped_config(name)), *argv]
    config = parse_config(DemoConfig, "demo", argv)
    import torch

    from specbound.cli.edge import quieten_libraries
    from specbound.demo import run_demo
    from specbound.report import build_report, check_destination, write_report

    quieten_libraries()
    check_destination(config.json)
    torch.set_num_threads(config.threads)
    result = run_demo(config, lambda line: print(line, file=sys.stderr, flush=True))
    if config.json is not None:
        write_report(build_report(result.rows, result.model, notes=result.notes), config.json)
    if config.json != "-":
        _print_table(result)
    return 0 if result.is_trustworthy else 1


def _print_table(result: "DemoResult") -> None:
    from rich.console import Console

    from specbound.tables import results_table

    console = Console()
    console.print(results_table(result.rows))
    for note in result.notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
