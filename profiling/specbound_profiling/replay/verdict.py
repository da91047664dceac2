"""What a log promises: the best fixed setting and the oracle, by replay. Knows no model and no controller."""

# A actions

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from specbound_controller.actions import WIDTHS, static_grid
from specbound_controller.costs import CostTable
from specbound_controller.figures import number, share, times
from specbound_controller.policy import AnnealedConfidence
from specbound_controller.ratio import ratio
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.replay.best_static import static_seconds
from specbound_profiling.replay.oracle import oracle
from specbound_profiling.replay.trace_batch import TraceBatch

WORTH_IT = 1.1
"""Oracle speedup below which no controller can pay."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Speeds by replay over all prompts of one compression level; prefill is left out of all of them."""

    compression: str
    num_prompts: int
    num_positions: int
    num_loops_cut: int
    num_eos_ends: int
    agreement: dict[int, float]
    """Exit layer -> share of positions where its draft is the full model's token."""
    plain_tokens_per_second: float
    """Plain decoding, modelled."""
    best_static: str
    """Name of the fastest fixed setting."""
    best_static_speedup: float
    """Over plain decoding, chosen on these same prompts."""
    oracle_speedup: float
    """Over plain decoding, clairvoyant: no controller can reach it."""
    cost_error: float
    """Median relative error of the cost table on steps left out of its fit."""
    exactness: str = "token"
    """Level of exactness that the log was recorded at."""

    @property
    def is_worth_a_controller(self) -> bool:
        """Whether the oracle reaches 1.1x."""
        return self.oracle_speedup >= WORTH_IT

    def __str__(self) -> str:
        agreement = ", ".join(f"{layer}: {share(agreed)}" for layer, agreed in self.agreement.items())
        conclusion = "worth a controller" if self.is_worth_a_controller else "not worth a controller here"
        if self.num_positions == self.num_prompts:
            conclusion = "nothing to judge: every continuation ended at its first token, so no step was taken"
        lines = [
            f"{self.compression}: {self.num_prompts} prompts, {self.num_positions} tokens, "
            f"{self.num_loops_cut} cut where they loop, {self.num_eos_ends} ended by themselves",
            f"  agreement with the full model by exit layer: {agreement}",
            f"  plain {number(self.plain_tokens_per_second, 1)} tokens/s, best static "
            f"{times(self.best_static_speedup)} ({self.best_static}, chosen on these same prompts), oracle "
            f"{times(self.oracle_speedup)}; by replay, cost table within {share(self.cost_error)} of a step",
            f"  {conclusion}",
        ]
        if self.exactness == "bitwise":
            lines.append("  recorded at exactness bitwise: plain and speculative decoding both in that mode")
        elif self.compression != "none":
            lines.append("  not exact: below fp32 speculative output may differ from plain, so this is an estimate")
        return "\n".join(lines)


def verdict(shards: Iterable[Sequence[PromptTrace]], costs: CostTable, num_layers: int, w_max: int = 8) -> Verdict:
    """Replays plain decoding, every fixed setting and the oracle, a shard in memory at a time."""
    actions, seconds, oracle_seconds = None, np.zeros(1), 0.0
    prompts = positions = emitted = loops = ends = 0
    accepted: dict[int, int] = {}
    for traces in shards:
        batch = TraceBatch(traces)
        if actions is None:
            widths = [w for w in WIDTHS if w <= w_max]
            actions = static_grid(batch.exit_layers, widths)
            decisions = [action.decision({"annealed": AnnealedConfidence(0.0)}) for action in actions]
        seconds = seconds + static_seconds(batch, costs, decisions, num_layers)
        oracle_seconds += float(oracle(traces, costs, num_layers, w_max).seconds.sum())
        prompts += len(traces)
        positions += batch.num_rows
        emitted += batch.num_rows - len(traces)
        loops += sum(trace.is_loop_cut for trace in traces)
        ends += sum(trace.is_final_eos for trace in traces)
        for index, layer in enumerate(batch.exit_layers):
            accepted[layer] = accepted.get(layer, 0) + int(batch.is_accepted[:, index].sum())
    assert actions is not None and actions[0].width == 0  # a log holds at least one prompt
    return Verdict(
        compression=costs.compression,
        num_prompts=prompts,
        num_positions=positions,
        num_loops_cut=loops,
        num_eos_ends=ends,
        agreement={layer: count / positions for layer, count in accepted.items()},
        plain_tokens_per_second=ratio(emitted, seconds[0]),
        best_static=actions[int(seconds.argmin())].name,
        best_static_speedup=ratio(seconds[0], seconds.min()),
        oracle_speedup=ratio(seconds[0], oracle_seconds),
        cost_error=costs.held_out_error,
    )
