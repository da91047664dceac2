"""Traces as Parquet tables and back: the columns of `exits/`, `positions/`, `branches/`. Knows no directory."""

# P positions, E exit layers, K temperatures, M positions of branches

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from specbound_profiling.log.branches import Branches
from specbound_profiling.log.columns import array_of, lists, lists_or_null, rows_of_lists, table_of, tail
from specbound_profiling.log.later import Later
from specbound_profiling.log.trace import PromptTrace

EXITS_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("position", pa.int32()),
        ("exit_layer", pa.int32()),
        ("draft_token", pa.int32()),
        ("is_accepted", pa.bool_()),
        ("top1_token", pa.int32()),
        ("confidence", pa.float32()),
        ("entropy_nats", pa.float32()),
        ("margin", pa.float32()),
        ("noised_margin", pa.float32()),
        ("draft_probability", pa.float32()),
        ("confidence_at", pa.list_(pa.float32())),
        ("label_nll_at", pa.list_(pa.float32())),
    ]
)
"""One row per prompt, position and exit layer, in that order, as schema 2 had them."""

BRANCHES_SCHEMA = EXITS_SCHEMA.append(pa.field("branch_position", pa.int32())).append(
    pa.field("branch_exit_layer", pa.int32())
)
"""One row per prompt, wrong draft that was followed, position after it and exit layer, in that order. The full model
says nothing there: `is_accepted` is false and `label_nll_at` null."""

POSITIONS_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("position", pa.int32()),
        ("token", pa.int32()),
        ("full_confidence", pa.float32()),
        ("full_entropy_nats", pa.float32()),
        ("full_margin", pa.float32()),
        ("context_length", pa.int32()),
        ("task", pa.string()),
        ("compression", pa.string()),
        ("is_loop_cut", pa.bool_()),
        ("is_final_eos", pa.bool_()),
    ]
)
"""One row per prompt and position; `context_length` counts the tokens before the position, prompt included;
`is_loop_cut` and `is_final_eos` hold for the whole continuation."""

_OF_TREES = {
    "candidates": pa.list_(pa.int32()),
    "candidate_chances": pa.list_(pa.float32()),
    "best_tokens": pa.list_(pa.int32()),
    "prompt_tokens": pa.list_(pa.int32()),
}
"""Columns that draft trees need; null where they were not recorded, the prompt's everywhere but at position 0."""


def exits_schema(version: int) -> pa.Schema:
    """Columns of `exits/` in logs of a schema version."""
    return _with_trees(EXITS_SCHEMA, ("candidates", "candidate_chances"), version)


def positions_schema(version: int) -> pa.Schema:
    """Columns of `positions/` in logs of a schema version."""
    return _with_trees(POSITIONS_SCHEMA, ("best_tokens", "prompt_tokens"), version)


def _with_trees(schema: pa.Schema, names: Sequence[str], version: int) -> pa.Schema:
    for name in names if version >= 3 else ():
        schema = schema.append(pa.field(name, _OF_TREES[name]))
    return schema


_PER_EXIT = ("draft_token", "is_accepted", "confidence", "entropy_nats", "margin", "noised_margin", "draft_probability")
_PER_TEMPERATURE = ("confidence_at", "label_nll_at")
_PER_BRANCH = ("branch_position", "branch_exit_layer", "position")
_PER_POSITION = ("full_confidence", "full_entropy_nats", "full_margin")


def exits_table(traces: Sequence[PromptTrace]) -> pa.Table:
    """Rows of `exits/` for some traces."""
    return pa.concat_tables([_exits_of(trace) for trace in traces]) if traces else exits_schema(3).empty_table()


def _exits_of(trace: PromptTrace) -> pa.Table:
    num_positions, num_exits = trace.num_positions, len(trace.exit_layers)
    top1 = trace.draft_token if trace.top1_token is None else trace.top1_token
    columns: dict[str, object] = {
        "prompt_id": np.repeat(trace.prompt_id, num_positions * num_exits),
        "position": np.repeat(np.arange(num_positions), num_exits),
        "exit_layer": np.tile(trace.exit_layers, num_positions),
        "top1_token": top1.ravel(),
        **{name: getattr(trace, name).ravel() for name in _PER_EXIT},
        **{name: lists(getattr(trace, name)) for name in _PER_TEMPERATURE},
        **{
            name: lists_or_null(getattr(trace, name), num_positions * num_exits, _OF_TREES[name])
            for name in ("candidates", "candidate_chances")
        },
    }
    return table_of(columns, exits_schema(3))


def branches_table(traces: Sequence[PromptTrace]) -> pa.Table:
    """Rows of `branches/` for some traces."""
    tables = [_branches_of(trace, trace.branches) for trace in traces if trace.branches is not None]
    return pa.concat_tables(tables) if tables else BRANCHES_SCHEMA.empty_table()


def _branches_of(trace: PromptTrace, branches: Branches) -> pa.Table:
    num_exits = len(trace.exit_layers)
    num_rows = len(branches.position) * num_exits
    columns: dict[str, object] = {
        "prompt_id": np.repeat(trace.prompt_id, num_rows),
        **{name: np.repeat(getattr(branches, name), num_exits) for name in _PER_BRANCH},
        "exit_layer": np.tile(trace.exit_layers, len(branches.position)),
        **{name: getattr(branches, name).ravel() for name in (*_PER_EXIT, "top1_token") if name != "is_accepted"},
        "is_accepted": np.zeros(num_rows, dtype=bool),
        "confidence_at": lists(branches.confidence_at),
        "label_nll_at": pa.nulls(num_rows, pa.list_(pa.float32())),
    }
    return table_of(columns, BRANCHES_SCHEMA)


def _at_the_first(values: np.ndarray | None, num_rows: int, kind: pa.DataType) -> pa.Array:
    """A list at the first row and null at all others."""
    first = None if values is None else values.tolist()
    return pa.array([first, *[None] * (num_rows - 1)], type=kind)


def positions_table(traces: Sequence[PromptTrace]) -> pa.Table:
    """Rows of `positions/` for some traces."""
    return pa.concat_tables([_positions_of(trace) for trace in traces]) if traces else positions_schema(3).empty_table()


def _positions_of(trace: PromptTrace) -> pa.Table:
    count = trace.num_positions
    columns: dict[str, object] = {
        "prompt_id": np.repeat(trace.prompt_id, count),
        "position": np.arange(count),
        "token": trace.tokens,
        **{name: getattr(trace, name) for name in _PER_POSITION},
        "context_length": trace.prompt_length + np.arange(count),
        "task": np.repeat(trace.task, count),
        "compression": np.repeat(trace.compression, count),
        "is_loop_cut": np.repeat(trace.is_loop_cut, count),
        "is_final_eos": np.repeat(trace.is_final_eos, count),
        "best_tokens": lists_or_null(trace.best_tokens, count, _OF_TREES["best_tokens"]),
        "prompt_tokens": _at_the_first(trace.prompt_tokens, count, _OF_TREES["prompt_tokens"]),
    }
    return table_of(columns, positions_schema(3))


def traces_of(
    exits: pa.Table,
    positions: pa.Table,
    branches: pa.Table,
    exit_layers: tuple[int, ...],
    temperatures: tuple[float, ...],
    token_limit: int,
    eos_token_ids: tuple[int, ...],
    later: Mapping[str, tuple[Later, ...]] = MappingProxyType({}),
) -> Iterator[PromptTrace]:
    """The traces whose rows the tables hold, in order. Raises ValueError where the tables do not fit together.

    later: prompt -> what exits say of later drafts, where that was recorded.
    """
    wanted = positions.num_rows * len(exit_layers)
    if exits.num_rows != wanted:
        raise ValueError(f"exits must have {wanted} rows, {len(exit_layers)} at every position, got {exits.num_rows}")
    columns = {f.name: array_of(positions[f.name]) for f in POSITIONS_SCHEMA}
    shape = (positions.num_rows, len(exit_layers))
    per_exit = {f.name: array_of(exits[f.name]).reshape(*shape, *tail(f.type, temperatures)) for f in EXITS_SCHEMA}
    if not (per_exit["prompt_id"] == columns["prompt_id"][:, None]).all():
        raise ValueError("exits and positions must be of the same prompts")
    if not (per_exit["exit_layer"] == np.array(exit_layers)).all():
        raise ValueError(f"exit layers must be {exit_layers} at every position")
    starts = np.flatnonzero(columns["position"] == 0)
    trees = {
        "best_tokens": rows_of_lists(positions, "best_tokens", shape[:1]),
        **{name: rows_of_lists(exits, name, shape) for name in ("candidates", "candidate_chances")},
    }
    branches_of = _branches_by_prompt(branches, exit_layers, temperatures)
    if not set(branches_of) <= set(columns["prompt_id"][starts]):
        raise ValueError("branches and positions must be of the same prompts")
    for first, end in zip(starts, [*starts[1:], positions.num_rows], strict=True):
        rows = slice(first, end)
        arrays: dict[str, Any] = {name: per_exit[name][rows] for name in (*_PER_EXIT[1:], *_PER_TEMPERATURE)}
        arrays |= {name: columns[name][rows] for name in _PER_POSITION}
        arrays |= {name: None if values is None else values[rows] for name, values in trees.items()}
        yield PromptTrace(
            prompt_id=str(columns["prompt_id"][first]),
            task=str(columns["task"][first]),
            compression=str(columns["compression"][first]),
            prompt_length=int(columns["context_length"][first]),
            tokens=columns["token"][rows].astype(np.int64),
            exit_layers=exit_layers,
            temperatures=temperatures,
            draft_token=per_exit["draft_token"][rows].astype(np.int64),
            top1_token=per_exit["top1_token"][rows].astype(np.int64),
            **arrays,
            is_final_eos=bool(columns["is_final_eos"][first]),
            is_loop_cut=bool(columns["is_loop_cut"][first]),
            token_limit=token_limit,
            eos_token_ids=eos_token_ids,
            branches=branches_of.get(columns["prompt_id"][first]),
            prompt_tokens=_first_list(positions, int(first)),
            later=later.get(str(columns["prompt_id"][first]), ()),
        )


def _first_list(positions: pa.Table, row: int) -> np.ndarray | None:
    found = positions["prompt_tokens"][row].as_py() if "prompt_tokens" in positions.column_names else None
    return None if found is None else np.array(found, dtype=np.int64)


def _branches_by_prompt(
    table: pa.Table, exit_layers: tuple[int, ...], temperatures: tuple[float, ...]
) -> dict[str, Branches]:
    if table.num_rows % len(exit_layers):
        raise ValueError(f"branches must have {len(exit_layers)} rows at every position, got {table.num_rows} in all")
    shape = (table.num_rows // len(exit_layers), len(exit_layers))
    fields = [f for f in BRANCHES_SCHEMA if f.name not in ("label_nll_at", "is_accepted")]
    columns = {f.name: array_of(table[f.name]).reshape(*shape, *tail(f.type, temperatures)) for f in fields}
    if not (columns["exit_layer"] == np.array(exit_layers)).all():
        raise ValueError(f"exit layers must be {exit_layers} at every position of a branch")
    ids = columns["prompt_id"][:, 0]
    found = {}
    for prompt_id in dict.fromkeys(ids):
        rows = ids == prompt_id
        values = {name: columns[name][rows, 0].astype(np.int64) for name in _PER_BRANCH}
        values |= {name: columns[name][rows].astype(np.int64) for name in ("draft_token", "top1_token")}
        values |= {name: columns[name][rows] for name in (*_PER_EXIT[2:], "confidence_at")}
        found[str(prompt_id)] = Branches(**values)
    return found
