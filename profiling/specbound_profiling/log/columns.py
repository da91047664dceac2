"""Columns of Parquet tables from arrays and back. Knows no schema."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

_FLOATS = pa.list_(pa.float32())


def lists(values: np.ndarray, kind: pa.DataType = _FLOATS) -> pa.ListArray:
    """One list for each row and exit. (..., K)"""
    ends = np.arange(0, values.size + 1, values.shape[-1], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(values.ravel(), type=kind.value_type))


def lists_or_null(values: np.ndarray | None, num_rows: int, kind: pa.DataType) -> pa.Array:
    """The same, null where there are no values."""
    return pa.nulls(num_rows, kind) if values is None else lists(values, kind)


def table_of(columns: Mapping[str, object], schema: pa.Schema) -> pa.Table:
    """A table from arrays by name."""
    arrays = [columns[f.name] for f in schema]
    built = [a if isinstance(a, pa.Array) else pa.array(a, type=f.type) for a, f in zip(arrays, schema, strict=True)]
    return pa.table(built, schema=schema)


def rows_of_lists(table: pa.Table, name: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """A column of lists of one length, (*shape, ...); None where there is none, or not at every row."""
    if name not in table.column_names or not table.num_rows or table[name].null_count:
        return None
    column = table[name].combine_chunks()
    lengths = np.diff(column.offsets.to_numpy())
    if (lengths != lengths[0]).any():
        raise ValueError(f"{name} must hold lists of one length")
    values = np.asarray(column.flatten().to_numpy(zero_copy_only=False))
    values = values.astype(np.int64) if values.dtype.kind == "i" else values
    return values.reshape(*shape, int(lengths[0]))


def tail(kind: pa.DataType, temperatures: tuple[float, ...]) -> tuple[int, ...]:
    """Shape of one entry of a column of numbers, or of lists with a number for each temperature."""
    return (len(temperatures),) if pa.types.is_list(kind) else ()


def array_of(column: pa.ChunkedArray) -> np.ndarray:
    """All values of a column, those of lists one after another."""
    array = column.combine_chunks()
    values = array.flatten() if pa.types.is_list(column.type) else array
    return np.asarray(values.to_numpy(zero_copy_only=False))
