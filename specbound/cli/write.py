"""`specbound write`: parse, write, print."""

from collections.abc import Sequence
from dataclasses import asdict

from specbound.cli.edge import hand_over, say, set_up
from specbound.cli.parsing import parse_config
from specbound.stores.write_config import WriteConfig


def run(argv: Sequence[str]) -> None:
    config = parse_config(WriteConfig, "write", argv)
    set_up(config)
    from specbound.stores.write import write

    written = write(config, say)
    hand_over(config.json, lambda: print(written), [], {"name": config.model}, written=asdict(written))
