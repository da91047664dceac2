"""What a generation did: step records and the metrics that follow from their counts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from specbound_controller.ratio import ratio
from specbound_controller.records import StepRecord

Key = TypeVar("Key")


def _sums(one: Mapping[Key, int], two: Mapping[Key, int]) -> dict[Key, int]:
    """The counts of two, added."""
    return {key: one.get(key, 0) + two.get(key, 0) for key in {**one, **two}}


@dataclass(slots=True)
class DecodeStats:
    """Counts of one generation; add two with `+` to pool them (ratios of sums, never means of ratios)."""

    num_tokens: int = 0
    """Generated tokens, the one that prefill yields included."""
    num_steps: int = 0
    """Draft-and-verify steps."""
    num_step_tokens: int = 0
    """Tokens emitted in steps."""
    num_drafted: int = 0
    num_accepted: int = 0
    num_layer_calls: int = 0
    """Layer calls in steps, prefill left out."""
    seconds: float = 0.0
    """Call to return, prefill included."""
    prefill_seconds: float = 0.0
    accepted_histogram: dict[int, int] = field(default_factory=dict)
    """Accepted drafts in a step -> number of such steps."""
    steps: list[StepRecord] = field(default_factory=list)
    """One record per step, in order; empty where recording is switched off."""
    accepted_by_source: dict[str, int] = field(default_factory=dict)
    """What proposed drafts that were accepted -> how many, by the names of `StepRecord.accepted_sources`."""

    def add_step(self, record: StepRecord, keep: bool) -> None:
        self.num_steps += 1
        self.num_step_tokens += record.num_emitted
        self.num_tokens += record.num_emitted
        self.num_drafted += record.num_drafted
        self.num_accepted += record.num_accepted
        self.num_layer_calls += record.num_layer_calls
        self.accepted_histogram[record.num_accepted] = self.accepted_histogram.get(record.num_accepted, 0) + 1
        for source in record.accepted_sources:
            self.accepted_by_source[source] = self.accepted_by_source.get(source, 0) + 1
        if keep:
            self.steps.append(record)

    def __add__(self, other: "DecodeStats") -> "DecodeStats":
        return DecodeStats(
            self.num_tokens + other.num_tokens,
            self.num_steps + other.num_steps,
            self.num_step_tokens + other.num_step_tokens,
            self.num_drafted + other.num_drafted,
            self.num_accepted + other.num_accepted,
            self.num_layer_calls + other.num_layer_calls,
            self.seconds + other.seconds,
            self.prefill_seconds + other.prefill_seconds,
            _sums(self.accepted_histogram, other.accepted_histogram),
            self.steps + other.steps,
            _sums(self.accepted_by_source, other.accepted_by_source),
        )

    @property
    def acceptance_rate(self) -> float:
        """Accepted over drafted tokens."""
        return ratio(self.num_accepted, self.num_drafted)

    @property
    def tokens_per_step(self) -> float:
        """Tokens emitted in steps over steps; exactly 1 for plain decoding."""
        return ratio(self.num_step_tokens, self.num_steps)

    @property
    def layer_calls_per_token(self) -> float:
        """Layer calls over tokens emitted in steps; the number of layers for plain decoding."""
        return ratio(self.num_layer_calls, self.num_step_tokens)

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens over seconds from call to return."""
        return ratio(self.num_tokens, self.seconds)

    @property
    def decode_tokens_per_second(self) -> float:
        """The same without prefill and its token."""
        return ratio(self.num_step_tokens, self.seconds - self.prefill_seconds)

    @property
    def acceptance_rate_at(self) -> dict[int, float]:
        """k -> share of the steps that accepted at least k drafts, k >= 1."""
        longest = max(self.accepted_histogram, default=0)
        at_least = {k: sum(n for a, n in self.accepted_histogram.items() if a >= k) for k in range(1, longest + 1)}
        return {k: ratio(count, self.num_steps) for k, count in at_least.items()}
