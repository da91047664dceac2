"""How much of everything fits into the time, from a short look at the model's speed."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.greedy_twin import greedy_twin
from specbound.evaluation.timing import TimedPrompt
from specbound.exits.trained import new_adapter
from specbound.models.loading import LoadedModel
from specbound_profiling.progress import working
from specbound_profiling.recording.config import auto_exit_layers
from specbound_profiling.recording.record import Recorder
from specbound_profiling.recording.settings import RecordSettings

PROBED_TOKENS = 16
"""Tokens of each prompt that the probe decodes and records."""
COSTS_S, BIGRAMS_S, TRAINING_S, REST_S = 40.0, 30.0, 75.0, 15.0
"""What stages take that does not depend on the sizes, roughly."""
SHARES: Mapping[str, float] = {"profile": 0.3, "race": 0.35, "final": 0.1, "measure": 0.25}
"""Of the time that is left for the others."""
BOUNDS: Mapping[str, tuple[int, int]] = {"profile": (12, 20), "race": (4, 5), "final": (4, 5), "measure": (8, 16)}
"""Fewest and most prompts of a stage: fewer say nothing, more say little more."""
RACED_TOKENS = 40
"""Most tokens of each prompt of the race."""
SHORTER_TOKENS = (48, 32, 24, 16)
"""Tokens of each prompt where the time does not allow as many as were asked for."""
ALREADY_DONE_S = 1.0
"""A stage that takes less was done by an earlier run."""
OVERDRAFT = 0.1
"""How much longer than asked for an estimate may be."""
RACED_RUNS, FINAL_RUNS, MEASURED_RUNS = 20.0, 8.0, 4.0
"""How often a prompt is decoded, over all methods and rounds: halving leaves half of the methods for twice the prompts;
the measurement has three methods, warms up, and records once."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Of plain decoding and of recording, seconds."""

    per_token_s: float
    per_prompt_s: float
    """Prefill and overhead."""
    recorded_token_s: float


@dataclass(frozen=True, slots=True)
class Sizes:
    """Prompts of every stage."""

    profile: int
    race: int
    final: int
    measure: int
    max_new_tokens: int
    """Most tokens of each."""
    estimates: dict[str, float]
    """Stage -> seconds that it will take, roughly."""

    @property
    def seconds(self) -> float:
        """All stages together."""
        return sum(self.estimates.values())


def probe_speed(loaded: LoadedModel, prompts: Sequence[TimedPrompt], exactness: str) -> Speed:
    """Decodes and records a few tokens of some prompts."""
    adapter = new_adapter(loaded)
    decoder = SpecBoundDecoder(greedy_twin(loaded.model), None, loaded.compression, False, exactness)
    exits = auto_exit_layers(adapter.num_layers, loaded.trained_layers)
    recorder = Recorder(adapter, RecordSettings(tuple(sorted(exits)), PROBED_TOKENS), exactness)
    num_tokens = num_recorded = 0
    prefill_s = decode_s = recorded_s = 0.0
    with working("how fast is the model?", len(prompts) + 1) as work:
        decoder.decode([prompts[0].input_ids], max_new_tokens=PROBED_TOKENS)
        work.advance()
        for index, prompt in enumerate(prompts):
            stats = decoder.decode([prompt.input_ids], max_new_tokens=PROBED_TOKENS).stats
            prefill_s, decode_s = prefill_s + stats.prefill_seconds, decode_s + stats.seconds - stats.prefill_seconds
            num_tokens += max(1, stats.num_tokens - 1)
            started = time.perf_counter()
            num_recorded += recorder.record(prompt.input_ids, index).num_positions
            recorded_s += time.perf_counter() - started
            work.advance()
    return Speed(decode_s / num_tokens, prefill_s / len(prompts), recorded_s / num_recorded)


def choose_sizes(speed: Speed, minutes: float, max_new_tokens: int, has_bigrams: bool) -> Sizes:
    """As many prompts as the time allows, within `BOUNDS`; where the fewest take too long, with fewer tokens each."""
    lengths = [max_new_tokens, *(length for length in SHORTER_TOKENS if length < max_new_tokens)]
    found = [_sizes(speed, minutes, length, has_bigrams) for length in lengths]
    return next((sizes for sizes in found if sizes.seconds <= 60 * minutes * (1.0 + OVERDRAFT)), found[-1])


def _sizes(speed: Speed, minutes: float, max_new_tokens: int, has_bigrams: bool) -> Sizes:
    fixed = {"costs": COSTS_S, "bigrams": 0.0 if has_bigrams else BIGRAMS_S, "train": TRAINING_S, "rest": REST_S}
    left_s = max(0.0, minutes * 60 - sum(fixed.values()))
    run_s = speed.per_prompt_s + max_new_tokens * speed.per_token_s
    raced_s = speed.per_prompt_s + min(RACED_TOKENS, max_new_tokens) * speed.per_token_s
    recorded_s = speed.per_prompt_s + max_new_tokens * speed.recorded_token_s
    prices = {
        "profile": recorded_s,
        "race": RACED_RUNS * raced_s,
        "final": FINAL_RUNS * run_s,
        "measure": MEASURED_RUNS * run_s + recorded_s,
    }
    counts = {}
    for stage, price in prices.items():
        least, most = BOUNDS[stage]
        counts[stage] = min(most, max(least, int(SHARES[stage] * left_s / price)))
    estimates = fixed | {stage: counts[stage] * price for stage, price in prices.items()}
    return Sizes(**counts, max_new_tokens=max_new_tokens, estimates=estimates)


class Plan:
    """How much time is left, by the estimates and by how they have held so far."""

    def __init__(self, estimates: Mapping[str, float]) -> None:
        """estimates: stage -> seconds, in their order."""
        self._left = dict(estimates)
        self._expected_s = self._taken_s = 0.0

    def end(self, stage: str, seconds: float) -> None:
        """A stage has taken so long; one that had ended before, and took no time, says nothing."""
        expected_s = self._left.pop(stage)
        if seconds > ALREADY_DONE_S:
            self._expected_s += expected_s
            self._taken_s += seconds

    def left_s(self, seconds_in_stage: float) -> float | None:
        """Seconds; None in a stage that takes longer than it was to, where its own progress says more."""
        pace = max(1.0, self._taken_s / self._expected_s) if self._expected_s else 1.0
        own_s, *others = (pace * seconds for seconds in self._left.values())
        return None if seconds_in_stage > own_s else own_s - seconds_in_stage + sum(others)
