"""From timings and replays to the rows of a report: speedups only where the outputs allow them.

Knows no model: what was decoded comes in as timings, what was replayed as totals per prompt.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from specbound.decoding.stats import DecodeStats
from specbound.differences import Difference
from specbound.measure import TimedPrompt, Timing
from specbound.report import Row
from specbound_profiling.bootstrap import bootstrap_ratio
from specbound_profiling.replay_result import ReplayResult

MAX_NEAR_TIE_SHARE = 0.01
"""A speedup is claimed where outputs differ, at near-ties only, on at most this share of the prompts."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that was decoded, on the same prompts."""

    prompts: Sequence[TimedPrompt]
    timings: Mapping[str, Sequence[Timing]]
    """Method -> one timing per prompt; holds `plain`."""
    differences: Sequence[Difference]
    """Outputs that are not plain decoding's."""
    compression: str
    num_layers: int
    seed: int
    """Seed of the bootstrap."""

    @property
    def tasks(self) -> list[str]:
        """Kinds of content in the order of the prompts, then `all`."""
        return [*dict.fromkeys(prompt.task for prompt in self.prompts), "all"]

    def indices(self, task: str) -> list[int]:
        """Prompts of a task."""
        return [i for i, prompt in enumerate(self.prompts) if task in ("all", prompt.task)]

    def tokens(self, method: str, indices: Sequence[int]) -> np.ndarray:
        return np.array([len(self.timings[method][i].tokens) for i in indices], dtype=float)

    def seconds(self, method: str, indices: Sequence[int]) -> np.ndarray:
        return np.array([self.timings[method][i].seconds for i in indices])

    @property
    def reference(self) -> str:
        """What speedups are over: the faster of plain decoding and transformers' generate on all prompts."""
        plain_like = [name for name in ("plain", "transformers") if name in self.timings]
        return min(plain_like, key=lambda name: self.seconds(name, self.indices("all")).sum())

    def timed_rows(self) -> list[Row]:
        """Every method on every kind of content, totals last."""
        return [self._timed_row(method, task) for task in self.tasks for method in self.timings]

    def _timed_row(self, method: str, task: str) -> Row:
        indices = self.indices(task)
        seconds, tokens = self.seconds(method, indices), self.tokens(method, indices)
        ids = {self.prompts[i].prompt_id for i in indices}
        differing = [d for d in self.differences if d.method == method and d.prompt_id in ids]
        row = Row(
            method=method,
            compression=self.compression,
            task=task,
            num_prompts=len(indices),
            num_tokens=int(tokens.sum()),
            tokens_per_second=float(tokens.sum() / seconds.sum()),
            outputs_equal=not differing,
            num_near_ties=sum(d.is_near_tie for d in differing),
        )
        counts = [self.timings[method][i].stats for i in indices]
        if all(stats is not None for stats in counts):
            total = sum((stats for stats in counts if stats is not None), DecodeStats())
            row = replace(
                row,
                tokens_per_step=total.tokens_per_step,
                acceptance_rate=total.acceptance_rate,
                layer_calls_per_token=total.layer_calls_per_token,
            )
        return self._with_speedup(row, indices) if self._is_claimable(method) else row

    def _is_claimable(self, method: str) -> bool:
        """Whether all outputs are equal, or differ in verified near-ties on few prompts; judged on all prompts."""
        differing = [d for d in self.differences if d.method == method]
        return all(d.is_near_tie for d in differing) and len(differing) <= MAX_NEAR_TIE_SHARE * len(self.prompts)

    def _with_speedup(self, row: Row, indices: Sequence[int]) -> Row:
        reference = self.seconds(self.reference, indices) / self.tokens(self.reference, indices).sum()
        own = self.seconds(row.method, indices) / self.tokens(row.method, indices).sum()
        low, high = bootstrap_ratio(reference, own, self.seed) if row.method != self.reference else (math.nan, math.nan)
        return replace(row, speedup=float(reference.sum() / own.sum()), speedup_low=low, speedup_high=high)

    def replayed_rows(self, method: str, replayed: ReplayResult, plain: ReplayResult) -> list[Row]:
        """Rows of a replay on the same prompts, in their order, priced relative to plain decoding's measured time.

        Prefill is added to both sides as it was measured: replay knows decoding alone.
        """
        rows = []
        for task in self.tasks:
            indices = self.indices(task)
            of_task = replayed.only(indices)
            modelled = float(plain.seconds[indices].sum())
            share = float(of_task.seconds.sum()) / modelled if modelled else 1.0  # prefill yields one token
            seconds = self.prefill_seconds(indices) + share * self.decode_seconds(indices)
            tokens = self.tokens("plain", indices).sum()
            rows.append(
                Row(
                    method=method,
                    compression=self.compression,
                    task=task,
                    num_prompts=len(indices),
                    num_tokens=int(tokens),
                    tokens_per_second=float(tokens / seconds),
                    tokens_per_step=of_task.tokens_per_step,
                    acceptance_rate=of_task.acceptance_rate,
                    layer_calls_per_token=of_task.layer_calls_per_token,
                    speedup=float(self.seconds(self.reference, indices).sum() / seconds),
                    simulated=True,
                )
            )
        return rows

    def prefill_seconds(self, indices: Sequence[int]) -> float:
        """Prefill of plain decoding on these prompts, seconds."""
        return sum(self.timings["plain"][i].prefill_seconds for i in indices)

    def decode_seconds(self, indices: Sequence[int]) -> float:
        """Plain decoding without prefill, seconds."""
        return float(self.seconds("plain", indices).sum()) - self.prefill_seconds(indices)

    def spread(self) -> str:
        """One line: the smallest and the largest total seconds of every method over the rounds."""
        totals = {name: np.array([t.runs_s for t in of_method]).sum(0) for name, of_method in self.timings.items()}
        parts = [f"{name.replace('_', ' ')} {total.min():.2f} to {total.max():.2f}" for name, total in totals.items()]
        num_rounds = len(self.timings["plain"][0].runs_s)
        return f"seconds for all prompts over {num_rounds} rounds, least to most: {', '.join(parts)}"
