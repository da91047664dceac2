"""Shards of text that a model wrote: read only. Knows no model and no prompt."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from specbound_controller.errors import InputError

TEXT_FOLDER = "text"
"""Where the shards lie, below a run's folder."""


def shard_rows(path: Path) -> list[tuple[str, list[int]]]:
    """Prompt id and answer of each row of a shard. Raises InputError where it is damaged."""
    try:
        table = pq.read_table(path, columns=["prompt_id", "tokens"])
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} is no shard of text: {' '.join(str(error).split())[:200]}; delete it") from None
    return list(zip(table["prompt_id"].to_pylist(), table["tokens"].to_pylist(), strict=True))


def text_rows(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """The same of every answer of a run, in the order in which they were written."""
    for path in sorted((folder / TEXT_FOLDER).glob("*.parquet")):
        yield from shard_rows(path)
