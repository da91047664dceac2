"""`specbound serve`: parse, load, serve until a signal."""

from collections.abc import Sequence

from specbound.cli.edge import say, set_up
from specbound.cli.parsing import parse_config
from specbound.serve.config import ServeConfig


def run(argv: Sequence[str]) -> None:
    config = parse_config(ServeConfig, "serve", argv)
    set_up(config)
    from specbound.serve.run import serve

    serve(config, say)
