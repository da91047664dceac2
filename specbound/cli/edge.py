"""What every command does at the edge of the process: set it up once, say how far it is, hand over what it found."""

import logging
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from specbound.cli.streams import tell
from specbound_controller.errors import InputError

if TYPE_CHECKING:
    from specbound.results.rows import Row

MAX_THREADS = 1024
"""More than any machine of today has; each is made at once."""
NARROWEST = 70
"""Columns that tables are made to fit; narrower terminals wrap."""
MAX_WIDTH = 100_000
"""Columns of the widest table that is measured."""


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
        if config.threads > MAX_THREADS:
            raise InputError(f"threads must be at most {MAX_THREADS}, got {config.threads}")
        torch.set_num_threads(config.threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.basicConfig(level=logging.WARNING, format="specbound: %(message)s")


def say(line: str) -> None:
    """How far the command is, on standard error."""
    tell(line)


def show(*parts: Any, notes: Iterable[str] = (), width: int = 0) -> None:
    """Tables and texts for people, an empty line before each table but the first, then notes, one line each.

    A table that is wider than the terminal loses columns, from the right; in a file or a pipe it is whole.

    width: columns that they take at least, wherever they go.
    """
    for index, part in enumerate(parts):
        if isinstance(part, str):
            print(part)
            continue
        if index:
            print()
        _show_whole(part, width)
    for note in notes:
        print(note)


def _show_whole(table: Any, width: int) -> None:
    from rich.console import Console
    from rich.measure import Measurement

    plain: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}  # a task may be called [b] or :cat:
    console = Console(**plain)

    def measure(each: Any) -> int:
        return int(Measurement.get(console, console.options.update(max_width=MAX_WIDTH), each).maximum)

    whole = measure(table)
    if whole > console.width and hasattr(table, "fitting") and (console.is_terminal or "COLUMNS" in os.environ):
        table = table.fitting(max(console.width, NARROWEST), measure)
        whole = measure(table)
    console = Console(width=max(width, whole, console.width), **plain)
    with console.capture() as captured:  # rich ends the process where standard output is closed
        console.print(table)
    print(captured.get(), end="")


def hand_over(
    json: str | None, show_people: Callable[[], None], rows: Sequence["Row"], model: Mapping[str, Any], **extra: Any
) -> None:
    """Writes a result's report, and shows it; where the report goes to standard output (`-`), nothing else does."""
    from specbound.results.report import build_report, write_report

    try:
        if json is not None:
            write_report(build_report(rows, model, **extra), json)  # first: whoever was to read the rest may be gone
    finally:
        if json != "-":
            show_people()  # also where the report could not be written
