"""What a log promises, by replay: the best fixed setting, the oracle, who carries the gain, what to do about it.

Knows no model and no controller.
"""

# A actions, B prompts

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from specbound_controller.actions import WIDTHS, static_grid
from specbound_controller.costs import CostTable
from specbound_controller.figures import DASH, interval, number, share, times
from specbound_controller.lookup import LOOKUP_EXIT
from specbound_controller.policy import AnnealedConfidence
from specbound_controller.ratio import ratio
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.replay.best_static import static_prompt_seconds
from specbound_profiling.replay.bootstrap import bootstrap_ratio
from specbound_profiling.replay.oracle import oracle
from specbound_profiling.replay.trace_batch import TraceBatch

WORTH_IT = 1.1
"""Oracle speedup below which no controller can pay."""


@dataclass(frozen=True, slots=True)
class Speedup:
    """Over plain decoding, with its 95 % interval over prompts."""

    value: float
    low: float
    """nan, as `high`, where there are too few prompts for an interval."""
    high: float

    def __str__(self) -> str:
        bounds = interval(self.low, self.high)
        return times(self.value) + ("" if bounds == DASH else f" ({bounds})")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Speeds by replay over all prompts of one compression level; prefill is left out of all of them."""

    compression: str
    num_prompts: int
    num_positions: int
    num_loops_cut: int
    num_eos_ends: int
    agreement: dict[int, float]
    """Exit layer -> share of positions where its draft is the full model's token; 0 are lookups."""
    plain_tokens_per_second: float
    """Plain decoding, modelled."""
    best_static: str
    """Name of the fastest fixed setting on all prompts."""
    static: Speedup
    """Of the fixed setting that is fastest on all other prompts, prompt by prompt; nan for a single prompt."""
    oracle: Speedup
    """Clairvoyant: no controller can reach it."""
    oracle_of_lookups: Speedup | None
    """The same where only lookups may draft; None where they are not recorded beside exits."""
    oracle_of_exits: Speedup | None
    """The same where only exits may draft."""
    cost_error: float
    """Median relative error of the cost table on steps left out of its fit."""
    exactness: str = "token"
    """Level of exactness that the log was recorded at."""

    def __str__(self) -> str:
        agreement = ", ".join(f"{layer}: {share(agreed)}" for layer, agreed in self.agreement.items())
        lines = [
            f"{self.compression}: {self.num_prompts} prompts, {self.num_positions} tokens, "
            f"{self.num_loops_cut} cut where they loop, {self.num_eos_ends} ended by themselves",
            f"  agreement with the full model by exit layer: {agreement}",
            f"  by replay, cost table within {share(self.cost_error)} of a step, in brackets 95 % over "
            f"{self.num_prompts} prompts:",
            f"  plain {number(self.plain_tokens_per_second, 1)} tokens/s, best static {self.static} "
            f"(chosen on the other prompts; on all it is {self.best_static}), oracle {self.oracle}",
        ]
        if self.oracle_of_lookups is not None and self.oracle_of_exits is not None:
            lines.append(
                f"  oracle with lookups alone {self.oracle_of_lookups}, with exits alone {self.oracle_of_exits}"
            )
        if self.exactness == "bitwise":
            lines.append("  recorded at exactness bitwise: plain and speculative decoding both in that mode")
        elif self.compression != "none":
            lines.append("  not exact: below fp32 speculative output may differ from plain, so this is an estimate")
        return "\n".join([*lines, f"  {self.conclusion}"])

    @property
    def conclusion(self) -> str:
        """Whether a controller is worth it, what carries the gain, what to do: one line."""
        if self.num_positions == self.num_prompts:
            return "nothing to judge: every continuation ended at its first token, so no step was taken"
        few = f"{self.num_prompts} prompts are too few to be sure"
        if self.oracle.value < WORTH_IT:
            is_sure = self.oracle.high < WORTH_IT
            return "not worth a controller here" + ("" if is_sure else f", but {few}") + self._advice_on_exits()
        if not self.oracle.low >= WORTH_IT:
            return f"perhaps worth a controller: {few}; profile more, at least 24"
        if self.oracle_of_exits is not None and self.oracle_of_exits.value < WORTH_IT:
            return (
                "worth a controller for lookups only: drafts looked up in the context carry the gain"
                + self._advice_on_exits()
            )
        if self.oracle_of_lookups is not None and self.oracle_of_lookups.value < WORTH_IT:
            return "worth a controller: exits carry the gain, lookups add little"
        return "worth a controller"

    def _advice_on_exits(self) -> str:
        exits = {layer: agreed for layer, agreed in self.agreement.items() if layer != LOOKUP_EXIT}
        if not exits:
            return ""
        return (
            f"; exits of this model agree at most {share(max(exits.values()))} up to layer {max(exits)}: train exits, "
            f"or leave them out (--exit-layers {LOOKUP_EXIT})"
        )


def verdict(shards: Iterable[Sequence[PromptTrace]], costs: CostTable, num_layers: int, w_max: int = 8) -> Verdict:
    """Replays plain decoding, every fixed setting and the oracles, a shard in memory at a time."""
    replays: _Replays | None = None
    for traces in shards:
        replays = replays or _Replays(traces[0].exit_layers, costs, num_layers, w_max)
        replays.add(traces)
    assert replays is not None  # a log holds at least one prompt
    return replays.verdict()


class _Replays:
    """What is kept of the shards: counts, and seconds of each prompt."""

    def __init__(self, exit_layers: tuple[int, ...], costs: CostTable, num_layers: int, w_max: int) -> None:
        self.costs, self.num_layers, self.w_max = costs, num_layers, w_max
        self.actions = static_grid(exit_layers, [width for width in WIDTHS if width <= w_max])
        self.decisions = [action.decision({"annealed": AnnealedConfidence(0.0)}) for action in self.actions]
        exits = tuple(layer for layer in exit_layers if layer != LOOKUP_EXIT)
        parts = {"lookups": (LOOKUP_EXIT,), "exits": exits} if exits and len(exits) < len(exit_layers) else {}
        self.exits_of = {"all": exit_layers, **parts}
        self.plain: list[np.ndarray] = []
        """(B,) of each shard"""
        self.static: list[np.ndarray] = []
        """(B, A) float32 of each shard"""
        self.oracles: dict[str, list[np.ndarray]] = {name: [] for name in self.exits_of}
        """(B,) of each shard"""
        self.num_positions = self.num_loops = self.num_ends = 0
        self.accepted = dict.fromkeys(exit_layers, 0)

    def add(self, traces: Sequence[PromptTrace]) -> None:
        batch = TraceBatch(traces)
        seconds = static_prompt_seconds(batch, self.costs, self.decisions, self.num_layers)
        self.plain.append(seconds[:, 0])
        self.static.append(seconds.astype(np.float32))
        for name, exits in self.exits_of.items():
            self.oracles[name].append(oracle(batch, self.costs, self.num_layers, self.w_max, exits).seconds)
        self.num_positions += batch.num_rows
        self.num_loops += sum(trace.is_loop_cut for trace in traces)
        self.num_ends += sum(trace.is_final_eos for trace in traces)
        for index, layer in enumerate(batch.exit_layers):
            self.accepted[layer] += int(batch.is_accepted[:, index].sum())

    def verdict(self) -> Verdict:
        assert self.actions[0].width == 0
        plain, static = np.concatenate(self.plain), np.concatenate(self.static)
        totals = static.sum(axis=0, dtype=np.float64)
        oracles = {name: _speedup(plain, np.concatenate(seconds)) for name, seconds in self.oracles.items()}
        return Verdict(
            compression=self.costs.compression,
            num_prompts=len(plain),
            num_positions=self.num_positions,
            num_loops_cut=self.num_loops,
            num_eos_ends=self.num_ends,
            agreement={layer: count / self.num_positions for layer, count in self.accepted.items()},
            plain_tokens_per_second=ratio(self.num_positions - len(plain), float(plain.sum())),
            best_static=self.actions[int(totals.argmin())].name,
            static=_speedup(plain, _chosen_on_others(static)),
            oracle=oracles["all"],
            oracle_of_lookups=oracles.get("lookups"),
            oracle_of_exits=oracles.get("exits"),
            cost_error=self.costs.held_out_error,
        )


def _chosen_on_others(seconds: np.ndarray) -> np.ndarray:
    """Each prompt's seconds under the setting that is fastest on all others; nan for a single one. (B, A) -> (B,)"""
    if len(seconds) < 2:
        return np.full(len(seconds), math.nan)
    chosen = (seconds.sum(axis=0, dtype=np.float64) - seconds).argmin(axis=1)
    return np.asarray(seconds[np.arange(len(seconds)), chosen], dtype=np.float64)


def _speedup(plain: np.ndarray, seconds: np.ndarray) -> Speedup:
    """(B,), (B,)"""
    low, high = bootstrap_ratio(plain, seconds, seed=0)
    return Speedup(ratio(float(plain.sum()), float(seconds.sum())), low, high)
