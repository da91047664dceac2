"""Traces as Parquet tables and back: the columns of `exits/` and `positions/`. Knows no directory and no manifest."""

# P positions, E exit layers, K temperatures

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from specbound_profiling.trace import PromptTrace

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
"""One row per prompt, position and exit layer, in that order."""

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

_PER_EXIT = ("draft_token", "is_accepted", "confidence", "entropy_nats", "margin", "noised_margin", "draft_probability")
_PER_TEMPERATURE = ("confidence_at", "label_nll_at")
_PER_POSITION = ("full_confidence", "full_entropy_nats", "full_margin")


def exits_table(traces: Sequence[PromptTrace]) -> pa.Table:
    """Rows of `exits/` for some traces."""
    return pa.concat_tables([_exits_of(trace) for trace in traces]) if traces else EXITS_SCHEMA.empty_table()


def _exits_of(trace: PromptTrace) -> pa.Table:
    num_positions, num_exits = trace.num_positions, len(trace.exit_layers)
    top1 = trace.draft_token if trace.top1_token is None else trace.top1_token
    columns: dict[str, object] = {
        "prompt_id": np.repeat(trace.prompt_id, num_positions * num_exits),
        "position": np.repeat(np.arange(num_positions), num_exits),
        "exit_layer": np.tile(trace.exit_layers, num_positions),
        "top1_token": top1.ravel(),
        **{name: getattr(trace, name).ravel() for name in _PER_EXIT},
        **{name: list(getattr(trace, name).reshape(-1, len(trace.temperatures))) for name in _PER_TEMPERATURE},
    }
    return pa.table([pa.array(columns[f.name], type=f.type) for f in EXITS_SCHEMA], schema=EXITS_SCHEMA)


def positions_table(traces: Sequence[PromptTrace]) -> pa.Table:
    """Rows of `positions/` for some traces."""
    return pa.concat_tables([_positions_of(trace) for trace in traces]) if traces else POSITIONS_SCHEMA.empty_table()


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
    }
    return pa.table([pa.array(columns[f.name], type=f.type) for f in POSITIONS_SCHEMA], schema=POSITIONS_SCHEMA)


def traces_of(
    exits: pa.Table,
    positions: pa.Table,
    exit_layers: tuple[int, ...],
    temperatures: tuple[float, ...],
    token_limit: int,
    eos_token_ids: tuple[int, ...],
) -> Iterator[PromptTrace]:
    """The traces whose rows the two tables hold, in order. Raises ValueError where the tables do not fit together."""
    wanted = positions.num_rows * len(exit_layers)
    if exits.num_rows != wanted:
        raise ValueError(f"exits must have {wanted} rows, {len(exit_layers)} at every position, got {exits.num_rows}")
    columns = {f.name: _numpy(positions[f.name]) for f in POSITIONS_SCHEMA}
    shape = (positions.num_rows, len(exit_layers))
    per_exit = {f.name: _numpy(exits[f.name]).reshape(*shape, *_tail(f.type, temperatures)) for f in EXITS_SCHEMA}
    if not (per_exit["prompt_id"] == columns["prompt_id"][:, None]).all():
        raise ValueError("exits and positions must be of the same prompts")
    if not (per_exit["exit_layer"] == np.array(exit_layers)).all():
        raise ValueError(f"exit layers must be {exit_layers} at every position")
    starts = np.flatnonzero(columns["position"] == 0)
    for first, end in zip(starts, [*starts[1:], positions.num_rows], strict=True):
        rows = slice(first, end)
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
            **{name: per_exit[name][rows] for name in (*_PER_EXIT[1:], *_PER_TEMPERATURE)},
            **{name: columns[name][rows] for name in _PER_POSITION},
            is_final_eos=bool(columns["is_final_eos"][first]),
            is_loop_cut=bool(columns["is_loop_cut"][first]),
            token_limit=token_limit,
            eos_token_ids=eos_token_ids,
        )


def _tail(kind: pa.DataType, temperatures: tuple[float, ...]) -> tuple[int, ...]:
    return (len(temperatures),) if pa.types.is_list(kind) else ()


def _numpy(column: pa.ChunkedArray) -> np.ndarray:
    array = column.combine_chunks()
    values = array.flatten() if pa.types.is_list(column.type) else array
    return np.asarray(values.to_numpy(zero_copy_only=False))
