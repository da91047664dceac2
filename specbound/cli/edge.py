"""What every command does at the edge of the process: set it up once, say how far it is, hand over what it found."""

import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from specbound.results.rows import Row


def set_up(config: Any = None) -> None:
    """Before any work: a place for `--json` that can be written, CPU threads, and standard error for our own lines
    alone, without progress bars and advice of transformers.

    A config without `threads` leaves PyTorch's own choice. Cost tables and speeds hold for one number of them.
    """
    from specbound.results.report import check_destination

    check_destination(getattr(config, "json", None))
    import torch
    import transformers

    if hasattr(config, "threads"):
        torch.set_num_threads(config.threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.basicConfig(level=logging.WARNING, format="specbound: %(message)s")


def say(line: str) -> None:
    """How far the command is, on standard error."""
    print(line, file=sys.stderr, flush=True)


def show(*parts: Any, notes: Iterable[str] = (), width: int = 0) -> None:
    """Tables and texts for people, an empty line before each table but the first, then notes, one line each.

    width: columns that they take at least, wherever they go.
    """
    from rich.console import Console

    console = Console()
    console = Console(width=width) if console.width < width else console
    for index, part in enumerate(parts):
        if isinstance(part, str):
            print(part)
            continue
        if index:
            print()
        console.print(part)
    for note in notes:
        print(note)


def hand_over(
    json: str | None, show_people: Callable[[], None], rows: Sequence["Row"], model: Mapping[str, Any], **extra: Any
) -> None:
    """Shows a result, and writes its report; where that goes to standard output (`-`), nothing else does."""
    from specbound.results.report import build_report, write_report

    if json != "-":
        show_people()
    if json is not None:
        write_report(build_report(rows, model, **extra), json)
