"""`specbound chat`: parse, then answer what is typed, or what stands on standard input."""

import sys
from collections.abc import Sequence

from specbound.chat.config import ChatConfig
from specbound.cli.edge import say, set_up
from specbound.cli.parsing import gathered, parse_config
from specbound.cli.streams import input_lines, typed_lines


def run(argv: Sequence[str]) -> None:
    config = parse_config(ChatConfig, "chat", gathered(argv, "--stop"))
    set_up(config)
    from specbound.chat.run import chat

    is_typed = sys.stdin is not None and sys.stdin.isatty()
    chat(config, typed_lines() if is_typed else input_lines(), say, is_typed)
