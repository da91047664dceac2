"""Later drafts as a Parquet table and back: the columns of `later/`. Knows no directory."""

# P positions, E exit layers, D drafts after the first

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from specbound_profiling.log.columns import array_of, lists, rows_of_lists, table_of
from specbound_profiling.log.later import Later
from specbound_profiling.log.trace import PromptTrace

_PER_EXIT = {
    "draft_token": pa.int32(),
    "is_accepted": pa.bool_(),
    "confidence": pa.float32(),
    "entropy_nats": pa.float32(),
    "margin": pa.float32(),
    "noised_margin": pa.float32(),
    "draft_probability": pa.float32(),
}
_LISTS = {
    "confidence_at": pa.list_(pa.float32()),
    "candidates": pa.list_(pa.int32()),
    "candidate_chances": pa.list_(pa.float32()),
}
_PLACE = {"prompt_id": pa.string(), "draft_index": pa.int32(), "position": pa.int32(), "exit_layer": pa.int32()}
LATER_SCHEMA = pa.schema([*_PLACE.items(), *_PER_EXIT.items(), *_LISTS.items()])
"""One row per prompt, draft of a step from the second on (`draft_index` 1), position and exit layer, in that order."""


def later_table(traces: Sequence[PromptTrace]) -> pa.Table:
    """Rows of `later/` for some traces."""
    tables = [_later_of(trace, index, later) for trace in traces for index, later in enumerate(trace.later, start=1)]
    return pa.concat_tables(tables) if tables else LATER_SCHEMA.empty_table()


def _later_of(trace: PromptTrace, draft_index: int, later: Later) -> pa.Table:
    num_positions, num_exits = trace.num_positions, len(trace.exit_layers)
    num_rows = num_positions * num_exits
    columns: dict[str, object] = {
        "prompt_id": np.repeat(trace.prompt_id, num_rows),
        "draft_index": np.repeat(draft_index, num_rows),
        "position": np.repeat(np.arange(num_positions), num_exits),
        "exit_layer": np.tile(trace.exit_layers, num_positions),
        **{name: getattr(later, name).ravel() for name in _PER_EXIT},
        **{name: lists(getattr(later, name), kind) for name, kind in _LISTS.items()},
    }
    return table_of(columns, LATER_SCHEMA)


def later_by_prompt(table: pa.Table, exit_layers: tuple[int, ...], num_later: int) -> dict[str, tuple[Later, ...]]:
    """Prompt -> its second drafts, third, ... Raises ValueError where rows are missing.

    num_later: D
    """
    num_exits = len(exit_layers)
    if table.num_rows % num_exits:
        raise ValueError(f"later must have {num_exits} rows at every position, got {table.num_rows} in all")
    shape = (table.num_rows // num_exits, num_exits)
    place = {name: array_of(table[name]).reshape(shape) for name in _PLACE}
    if not (place["exit_layer"] == np.array(exit_layers)).all():
        raise ValueError(f"exit layers must be {exit_layers} at every position of a later draft")
    columns = {name: array_of(table[name]).reshape(shape) for name in _PER_EXIT}
    columns |= {name: _lists_of(table, name, shape) for name in _LISTS}
    columns["draft_token"] = columns["draft_token"].astype(np.int64)
    ids, indices = place["prompt_id"][:, 0], place["draft_index"][:, 0]
    found = {}
    for prompt_id in dict.fromkeys(ids):
        rows = [np.flatnonzero((ids == prompt_id) & (indices == index)) for index in range(1, num_later + 1)]
        later = [Later(**{name: values[chosen] for name, values in columns.items()}) for chosen in rows]
        found[str(prompt_id)] = tuple(later)
    return found


def _lists_of(table: pa.Table, name: str, shape: tuple[int, int]) -> np.ndarray:
    values = rows_of_lists(table, name, shape)
    if values is None:
        raise ValueError(f"{name} of later drafts must be there at every row")
    return values
