"""`specbound demo`: parse, run the chain, print one table."""

from collections.abc import Sequence

from specbound.cli.edge import hand_over, say, set_up, show
from specbound.cli.parsing import parse_config
from specbound.cli.shipped import shipped_config
from specbound.demo.config import DemoConfig
from specbound_controller.errors import InputError


def run(argv: Sequence[str]) -> int:
    config = parse_config(DemoConfig, "demo", with_sizes(argv))
    set_up(config)
    from specbound.demo.run import run_demo
    from specbound.results.headline import headline
    from specbound.results.tables import results_table

    result = run_demo(config, say)
    table = results_table(result.rows)
    hand_over(
        config.json,
        lambda: show(headline(result.rows), table, notes=result.notes),
        result.rows,
        result.model,
        notes=result.notes,
    )
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
