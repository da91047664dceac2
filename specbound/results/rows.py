"""A row of a report, and how tables show its figures: a metric is one field here and one property of `DecodeStats`.

Measures nothing. A field that is declared with `shown` is a column of every table of its rows, and a key in JSON.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

from specbound.decoding.stats import DecodeStats
from specbound_controller.figures import interval, number, times

PEERS = ("prompt_lookup", "assistant_early_exit")
"""Methods with which transformers itself drafts."""
THEIRS = ("transformers", *PEERS)
"""Methods of transformers: its own kernels, its own random numbers."""


@dataclass(frozen=True, slots=True)
class Column:
    """How tables show a figure of a row."""

    title: str
    """With line breaks where the terminal is narrow."""
    show: Callable[[Any], str]
    """The cell of a row."""
    is_wide: bool = False
    """Whether a terminal has no room for it: Markdown and pages show it alone."""


def shown(title: str, show: Callable[[Any], str], default: Any = math.nan, is_wide: bool = False) -> Any:
    """A field of a row that is a column. show: gets the row. Without a value of its own it has `default`."""
    return field(default=default, metadata={"column": Column(title, show, is_wide)})


def equality(row: "Row", unknown: str = "–", differing: str = "no") -> str:
    """Whether the outputs are plain decoding's; where only near-ties differ, how many."""
    if row.outputs_equal is None:
        return unknown
    if row.outputs_equal:
        return "yes"
    return f"no ({row.num_near_ties}≈)" if row.num_near_ties else differing


@dataclass(frozen=True, slots=True)
class Row:
    """One method on one kind of content. A value that does not apply is nan, and null in JSON."""

    method: str
    """`transformers`, `plain`, `best_static`, `controller`, `oracle`, or a baseline's name."""
    compression: str
    """How the weights were held."""
    task: str
    """Kind of content; `all` holds the totals."""
    num_prompts: int
    num_tokens: int
    tokens_per_second: float = shown("tokens\nper s", lambda row: number(row.tokens_per_second, 1))
    """Generated tokens over seconds from call to return."""
    tokens_per_step: float = shown("tokens\nper step", lambda row: number(row.tokens_per_step, 2))
    acceptance_rate: float = shown("acceptance\nrate", lambda row: number(row.acceptance_rate, 2))
    layer_calls_per_token: float = shown("layer calls\nper token", lambda row: number(row.layer_calls_per_token, 1))
    speedup: float = shown("speedup", lambda row: times(row.speedup))
    """Tokens per second over the reference's: the faster of plain decoding and transformers' generate."""
    speedup_low: float = shown("95 %\ninterval", lambda row: interval(row.speedup_low, row.speedup_high), is_wide=True)
    """Lower end of the 95 % bootstrap interval over prompts."""
    speedup_high: float = math.nan
    """Upper end."""
    outputs_equal: bool | None = shown("outputs\nequal", equality, None)
    """Whether every output equals plain decoding's; None where nothing was decoded."""
    num_near_ties: int = 0
    """Prompts whose output differs, first at a near-tie (its margin is within the kernels' rounding noise)."""
    exactness: str = "token"
    """`token` or `bitwise`."""
    simulated: bool = False
    """Whether the row was replayed, not timed."""

    @classmethod
    def of(cls, counts: DecodeStats, **values: Any) -> Self:
        """A row with the figures that follow from counts: every field that they have too. values win."""
        figures = {f.name: getattr(counts, f.name) for f in fields(cls) if hasattr(DecodeStats, f.name)}
        return cls(**{**figures, **values})

    def without_speedup(self) -> Self:
        """The same row where no speedup may be claimed."""
        return replace(self, speedup=math.nan, speedup_low=math.nan, speedup_high=math.nan)


def columns(kind: type[Row], first: Iterable[str] = (), last: Collection[str] = ()) -> dict[str, Column]:
    """Field -> column of a class of rows, in the order of its fields but for those to stand first and last."""
    found = {f.name: f.metadata["column"] for f in fields(kind) if "column" in f.metadata}
    return {name: found[name] for name in (*first, *(n for n in found if n not in last), *last)}


def modelled_rows(
    compression: str, num_prompts: int, num_tokens: int, plain_tokens_per_second: float, speedups: Mapping[str, float]
) -> list[Row]:
    """Rows of a replay that nothing was timed for: prefill is left out, speedups are over modelled plain decoding.

    speedups: method -> speedup; plain decoding is added.
    """
    return [
        Row(
            method=method,
            compression=compression,
            task="all",
            num_prompts=num_prompts,
            num_tokens=num_tokens,
            tokens_per_second=plain_tokens_per_second * speedup,
            speedup=speedup,
            simulated=True,
        )
        for method, speedup in {"plain": 1.0, **speedups}.items()
    ]
