"""From timings and replays to the rows of a report: speedups only where the outputs allow them.

Knows no model: what was decoded comes in as timings, what was replayed as totals per prompt.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np

from specbound.decoding.stats import DecodeStats
from specbound.evaluation.compare import SpeedRatio, speed_ratio
from specbound.evaluation.differences import Difference
from specbound.evaluation.power import power
from specbound.evaluation.timing import TimedPrompt, Timing
from specbound.evaluation.verify import num_differing_tokens
from specbound.results.rows import PEERS, THEIRS, Row, equality, shown
from specbound_controller.figures import interval, number, share, times
from specbound_profiling.replay.result import ReplayResult

MAX_NEAR_TIE_SHARE = 0.01
"""A speedup is claimed where outputs differ, at near-ties only, on at most this share of the prompts."""
PLAIN_AT_TOKEN = "plain_at_token"
"""Plain decoding on the model's own kernels beside a bitwise level; its row is called `plain` too."""


@dataclass(frozen=True, slots=True)
class EvaluatedRow(Row):
    """A row of a report, and what only an evaluation can say."""

    speed_over_fastest: float = shown("over\nfastest", lambda row: times(row.speed_over_fastest))
    """Tokens per second over those of the fastest plain decoding on any kernels, whose tokens may differ."""
    share_of_oracle_gain: float = shown("oracle's\ngain", lambda row: share(row.share_of_oracle_gain))
    """(speedup - 1) over (the oracle's speedup - 1)."""
    regret_to_oracle: float = shown("regret", lambda row: share(row.regret_to_oracle))
    """Share of the oracle's tokens per second that is missing."""
    decision_s_per_step: float = shown("µs to\ndecide", lambda row: number(1e6 * row.decision_s_per_step, 0))
    """Seconds in the policy and in exit scores, per step; measured on runs of their own."""
    tokens_per_second_low: float = shown(
        "tokens per s\nby round", lambda row: interval(row.tokens_per_second_low, row.tokens_per_second_high, 1)
    )
    """In the slowest round."""
    tokens_per_second_high: float = math.nan
    """In the fastest round."""
    num_differing_tokens: int = 0
    """Places where the outputs are not plain decoding's, those that follow from a first difference included."""
    outputs_equal: bool | None = shown("outputs\nequal", lambda row: token_equality(row), None)
    """Whether every output equals plain decoding's; None where nothing was decoded."""

    def without_speedup(self) -> Self:
        """The same row where no speed may be compared."""
        return replace(Row.without_speedup(self), speed_over_fastest=math.nan)  # super() knows no class with slots


def token_equality(row: EvaluatedRow) -> str:
    """Whether outputs are equal; else near-ties, or how many tokens differ."""
    return equality(row, differing=f"no ({row.num_differing_tokens} tokens)")


@dataclass(frozen=True, slots=True)
class Comparison:
    """The controller's speed over another method's, on the same prompts."""

    compression: str
    task: str
    other: str
    """The method that it is compared with."""
    num_prompts: int
    speed: SpeedRatio

    def to_dict(self) -> dict[str, Any]:
        """For a report."""
        named = {"method": "controller", "other": self.other, "compression": self.compression, "task": self.task}
        return {**named, "num_prompts": self.num_prompts, **asdict(self.speed)}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that was decoded, on the same prompts."""

    prompts: Sequence[TimedPrompt]
    timings: Mapping[str, Sequence[Timing]]
    """Method -> one timing per prompt; holds `plain`."""
    differences: Sequence[Difference]
    """Outputs that are not plain decoding's, of the methods that promise them to be."""
    compression: str
    num_layers: int
    seed: int
    """Seed of the bootstrap."""
    exactness: str = "token"
    """What was promised: the kernels of plain decoding and of all policies."""
    without_claim: Collection[str] = ()
    """Methods that promise no equal output: their speed is shown, their speedup is not."""

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

    def tokens_per_second(self, method: str) -> float:
        """Over all prompts."""
        return self.speed(method, self.indices("all"))

    @property
    def reference(self) -> str:
        """What speedups are over: plain decoding, or on the same kernels transformers' generate where it is faster."""
        is_peer = "transformers" in self.timings and self.exactness == "token"
        return max(("plain", "transformers") if is_peer else ("plain",), key=self.tokens_per_second)

    @property
    def fastest_plain(self) -> str:
        """The fastest of plain decoding and transformers' generate on any kernels."""
        names = [name for name in ("plain", PLAIN_AT_TOKEN, "transformers") if name in self.timings]
        return max(names, key=self.tokens_per_second)

    def speed(self, method: str, indices: Sequence[int]) -> float:
        """Tokens per second on some prompts."""
        return float(self.tokens(method, indices).sum() / self.seconds(method, indices).sum())

    def speed_ratio(self, method: str, other: str, indices: Sequence[int]) -> SpeedRatio:
        """One method's tokens per second over another's on some prompts."""
        own, others = ((self.tokens(name, indices), self.seconds(name, indices)) for name in (method, other))
        return speed_ratio(*own, *others, self.seed)

    @property
    def contest(self) -> tuple[str, str] | None:
        """The two methods whose difference is to show: the controller and the best fixed setting, or else the fastest
        policy and plain decoding."""
        policies = [name for name in self.timings if name not in (*THEIRS, *PEERS, PLAIN_AT_TOKEN, "plain")]
        if "controller" in policies:
            return "controller", "best_static" if "best_static" in policies else "plain"
        return (max(policies, key=self.tokens_per_second), "plain") if policies else None

    def half_interval(self) -> float:
        """Half the width of the contest's 95 % interval, as a share of its ratio; nan where there is none."""
        if self.contest is None:
            return math.nan
        speed = self.speed_ratio(*self.contest, self.indices("all"))
        return (speed.high - speed.low) / 2 / speed.ratio

    def power(self) -> list[str]:
        """What it takes to see a small difference in the contest, one line; none where nothing can be said."""
        if self.contest is None:
            return []
        own, other = (np.array([timing.runs_s for timing in self.timings[name]]) for name in self.contest)
        found = power(own, other)
        return [] if found is None else [found.describe(*(name.replace("_", " ") for name in self.contest))]

    def timed_rows(self) -> list[EvaluatedRow]:
        """Every method on every kind of content, totals last."""
        return [self._timed_row(method, task) for task in self.tasks for method in self.timings]

    def _timed_row(self, method: str, task: str) -> EvaluatedRow:
        indices = self.indices(task)
        timings = [self.timings[method][i] for i in indices]
        num_tokens = self.tokens(method, indices).sum()
        rounds = num_tokens / np.array([timing.runs_s for timing in timings]).sum(axis=0)
        differing = self.differing(method, indices)
        plain = [self.timings["plain"][i] for i in indices]
        pairs = [(a.tokens, b.tokens) for a, b in zip(plain, timings, strict=True)]
        is_comparable = not (method in THEIRS and self.is_sampled)
        is_on_own_kernels = method in (*THEIRS, PLAIN_AT_TOKEN)
        counts = [timing.stats for timing in timings if timing.stats is not None]
        row = EvaluatedRow.of(
            sum(counts if len(counts) == len(timings) else [], DecodeStats()),
            method="plain" if method == PLAIN_AT_TOKEN else method,
            compression=self.compression,
            task=task,
            num_prompts=len(indices),
            num_tokens=int(num_tokens),
            tokens_per_second=self.speed(method, indices),
            outputs_equal=all(a == b for a, b in pairs) and not differing if is_comparable else None,
            num_near_ties=sum(d.is_near_tie for d in differing),
            exactness="token" if is_on_own_kernels else self.exactness,
            tokens_per_second_low=float(rounds.min()),
            tokens_per_second_high=float(rounds.max()),
            speed_over_fastest=self.speed(method, indices) / self.speed(self.fastest_plain, indices),
            num_differing_tokens=sum(num_differing_tokens(a, b) for a, b in pairs) if is_comparable else 0,
        )
        return self._with_speedup(row, method, indices) if self.is_claimable(method) else row

    @property
    def is_sampled(self) -> bool:
        """Whether tokens are drawn; transformers draws others than our loop then."""
        return bool(self.prompts[0].sampling.get("do_sample"))

    def is_claimable(self, method: str) -> bool:
        """Whether a speedup may be claimed, judged on all prompts: the method promises plain decoding's output, every
        run gave it, and where outputs differ they do so in verified near-ties on few prompts.
        """
        if method in self.without_claim or any(timing.num_deviating_runs for timing in self.timings[method]):
            return False
        return self.is_close(method)

    def is_close(self, method: str) -> bool:
        """Whether all outputs are equal, or differ in verified near-ties on few prompts."""
        differing = self.differing(method, range(len(self.prompts)))
        return all(d.is_near_tie for d in differing) and len(differing) <= MAX_NEAR_TIE_SHARE * len(self.prompts)

    def differing(self, method: str, indices: Iterable[int]) -> list[Difference]:
        """Where the outputs of a method on some prompts are not plain decoding's."""
        ids = {self.prompts[i].prompt_id for i in indices}
        return [d for d in self.differences if d.method == method and d.prompt_id in ids]

    @property
    def refused(self) -> list[str]:
        """Methods that promise plain decoding's output and did not keep it; for transformers' drafts others answer."""
        promised = [name for name in self.timings if name not in self.without_claim and name not in PEERS]
        return [name for name in promised if not self.is_claimable(name)]

    def _with_speedup(self, row: EvaluatedRow, method: str, indices: Sequence[int]) -> EvaluatedRow:
        speed = self.speed_ratio(method, self.reference, indices)
        is_reference = method == self.reference
        low, high = (math.nan, math.nan) if is_reference else (speed.low, speed.high)
        return replace(row, speedup=speed.ratio, speedup_low=low, speedup_high=high)

    def replayed_rows(self, method: str, replayed: ReplayResult, plain: ReplayResult) -> list[EvaluatedRow]:
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
            speed = float(tokens / seconds)
            rows.append(
                EvaluatedRow.of(
                    of_task.counts,
                    method=method,
                    compression=self.compression,
                    task=task,
                    num_prompts=len(indices),
                    num_tokens=int(tokens),
                    tokens_per_second=speed,
                    speedup=speed / self.speed(self.reference, indices),
                    speed_over_fastest=speed / self.speed(self.fastest_plain, indices),
                    exactness=self.exactness,
                    simulated=True,
                )
            )
        return rows

    def comparisons(self) -> list[Comparison]:
        """The controller against every other method that drafts, where both may claim a speedup."""
        names = [name for name in self.timings if name not in (*THEIRS, PLAIN_AT_TOKEN, "controller")]
        if "controller" not in self.timings or not self.is_claimable("controller"):
            return []
        return [
            Comparison(self.compression, task, other, len(indices), self.speed_ratio("controller", other, indices))
            for task in self.tasks
            for indices in [self.indices(task)]
            for other in names
            if self.is_claimable(other)
        ]

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


def with_oracle(rows: Iterable[EvaluatedRow]) -> list[EvaluatedRow]:
    """The rows with their share of the oracle's gain and their regret to it, where they have a speedup."""
    rows = list(rows)
    limits = {row.task: row.speedup for row in rows if row.method == "oracle"}
    return [
        replace(
            row,
            share_of_oracle_gain=gain_share(row.speedup, limits[row.task]),
            regret_to_oracle=1 - row.speedup / limits[row.task],
        )
        for row in rows
    ]


def gain_share(speedup: float, limit: float) -> float:
    """Share of the oracle's gain over the reference; nan where it has none."""
    return (speedup - 1) / (limit - 1) if limit > 1 else math.nan
