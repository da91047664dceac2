"""Live steps as Parquet tables and back: the rows of `steps/`. Knows no directory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Any

import pyarrow as pa

from specbound_controller.records import StepRecord

_COUNTS_BY_ROWS = pa.map_(pa.int32(), pa.int32())

STEPS_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("compression", pa.string()),
        ("policy", pa.string()),
        ("step", pa.int32()),
        ("context_length", pa.int32()),
        ("num_drafted", pa.int32()),
        ("num_accepted", pa.int32()),
        ("num_emitted", pa.int32()),
        ("exit_layers", pa.list_(pa.int32())),
        ("scores", pa.list_(pa.float64())),
        ("confidences", pa.list_(pa.float64())),
        ("entropies_nats", pa.list_(pa.float64())),
        ("stop_reason", pa.string()),
        ("layer_calls_by_rows", _COUNTS_BY_ROWS),
        ("head_reads_by_rows", _COUNTS_BY_ROWS),
        ("num_exit_tests", pa.int32()),
        ("full_confidence", pa.float64()),
        ("full_entropy_nats", pa.float64()),
        ("full_margin", pa.float64()),
        ("seconds", pa.float64()),
        ("num_learned_scores", pa.int32()),
        ("sources", pa.list_(pa.string())),
        ("parents", pa.list_(pa.int32())),
        ("path", pa.list_(pa.int32())),
    ]
)
"""One row per prompt and step, in that order: `step` counts from 0 within a prompt, and from `context_length` on the
columns are the fields of `StepRecord`."""

_RECORD_FIELDS = tuple(field.name for field in fields(StepRecord))


@dataclass(frozen=True, slots=True)
class LiveSteps:
    """The steps that a policy took on one prompt with the real decoder."""

    prompt_id: str
    compression: str
    policy: str
    """Its name."""
    records: tuple[StepRecord, ...]
    """In order. `seconds` are by the clock that cost tables are measured with; nan in the first, which begins in
    prefill."""


def steps_table(runs: Sequence[LiveSteps]) -> pa.Table:
    """Rows of `steps/` for some prompts."""
    rows = [(run, step, record) for run in runs for step, record in enumerate(run.records)]
    columns: dict[str, list[Any]] = {
        "prompt_id": [run.prompt_id for run, _, _ in rows],
        "compression": [run.compression for run, _, _ in rows],
        "policy": [run.policy for run, _, _ in rows],
        "step": [step for _, step, _ in rows],
        **{name: [_plain(getattr(record, name)) for _, _, record in rows] for name in _RECORD_FIELDS},
    }
    return pa.table([pa.array(columns[f.name], type=f.type) for f in STEPS_SCHEMA], schema=STEPS_SCHEMA)


def _plain(value: Any) -> Any:
    return list(value.items()) if hasattr(value, "items") else value


def live_steps_of(table: pa.Table) -> Iterator[LiveSteps]:
    """The steps whose rows a table holds, in order. Raises ValueError where a prompt's steps are not whole."""

    def whose(row: dict[str, Any]) -> tuple[str, str, str]:
        return row["prompt_id"], row["compression"], row["policy"]

    for key, of_prompt in groupby(table.to_pylist(), key=whose):
        rows = list(of_prompt)
        if [row["step"] for row in rows] != list(range(len(rows))):
            raise ValueError(f"steps of prompt {key[0]} must count from 0")
        yield LiveSteps(*key, tuple(_record(row) for row in rows))


def _record(row: dict[str, Any]) -> StepRecord:
    values = {name: row[name] for name in _RECORD_FIELDS}
    for field in STEPS_SCHEMA:
        if pa.types.is_map(field.type):
            values[field.name] = dict(values[field.name])
        elif pa.types.is_list(field.type):
            values[field.name] = tuple(values[field.name])
    return StepRecord(**values)
