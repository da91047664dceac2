"""Times methods against each other in one process: interleaved, order rotated, warmed up, outputs compared.

Knows no policy and no prompt file: a method is a function from prompt ids and a token limit to tokens and counts.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from specbound.decoding.adapter import ModelAdapter
from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.request import Request, greedy_twin
from specbound.decoding.stats import DecodeStats
from specbound.differences import Difference, find_difference
from specbound_controller.policy import Policy

WARM_UP_TOKENS = 16
"""Tokens that each method decodes before the clock counts."""
PROBE_TOLERANCE = 0.10
"""Largest relative slowdown of the contention probe."""

Run = Callable[[Tensor, int], tuple[list[int], DecodeStats | None]]
"""(1, T) prompt ids and most new tokens -> new tokens, and counts where the method keeps them."""


@dataclass(frozen=True, slots=True)
class Method:
    """One way to decode."""

    name: str
    """As in the `method` column of a report."""
    run: Run
    """Decodes one prompt."""


@dataclass(frozen=True, slots=True)
class TimedPrompt:
    """One prompt for all methods, with one limit for all."""

    prompt_id: str
    task: str
    input_ids: Tensor
    """(1, T) int64"""
    max_new_tokens: int


@dataclass(slots=True)
class Timing:
    """What one method did on one prompt."""

    tokens: list[int] = field(default_factory=list)
    """New tokens."""
    stats: DecodeStats | None = None
    """Counts of one run (the runs are equal); None where the method keeps none."""
    runs_s: list[float] = field(default_factory=list)
    """Seconds from call to return, one per round."""
    prefill_runs_s: list[float] = field(default_factory=list)
    """Of these in prefill; empty where the method keeps no counts."""

    @property
    def seconds(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.runs_s)

    @property
    def prefill_seconds(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.prefill_runs_s)


class ContentionProbe:
    """The same matrix product timed again and again: it slows down when something else uses the machine."""

    def __init__(self, size: int = 384, repeats: int = 9) -> None:
        generator = torch.Generator().manual_seed(0)
        self._matrix = torch.randn(size, size, generator=generator)
        self._repeats = repeats
        self.seconds: list[float] = []
        self._product()

    def _product(self) -> float:
        started = time.perf_counter()
        for _ in range(4):
            self._matrix @ self._matrix
        return time.perf_counter() - started

    def sample(self) -> None:
        """One more figure: the median of a few products."""
        self.seconds.append(statistics.median(self._product() for _ in range(self._repeats)))

    @property
    def slowdown(self) -> float:
        """Slowest over fastest sample, less 1."""
        return max(self.seconds) / min(self.seconds) - 1.0

    @property
    def is_quiet(self) -> bool:
        return self.slowdown <= PROBE_TOLERANCE


def policy_method(name: str, model: PreTrainedModel, policy: Policy, compression: str) -> Method:
    """Our decoder under a policy; `StaticPolicy(())` is plain decoding."""
    decoder = SpecBoundDecoder(greedy_twin(model), policy=policy, compression=compression, record_steps=False)

    def run(input_ids: Tensor, max_new_tokens: int) -> tuple[list[int], DecodeStats]:
        output = decoder.decode([input_ids], max_new_tokens=max_new_tokens)
        return output.sequences[0, input_ids.shape[1] :].tolist(), output.stats

    return Method(name, run)


def transformers_method(model: PreTrainedModel) -> Method:
    """transformers' own greedy generate."""
    twin = greedy_twin(model)

    def run(input_ids: Tensor, max_new_tokens: int) -> tuple[list[int], None]:
        input_ids = input_ids.to(model.device)
        mask = torch.ones_like(input_ids)
        output = twin.generate(input_ids, attention_mask=mask, max_new_tokens=max_new_tokens)
        return output[0, input_ids.shape[1] :].tolist(), None

    return Method("transformers", run)


def time_methods(
    methods: Sequence[Method],
    prompts: Sequence[TimedPrompt],
    num_rounds: int,
    probe: ContentionProbe,
) -> dict[str, list[Timing]]:
    """Every method on every prompt, one after the other on each prompt, a different one first each time.

    Returns method name -> one `Timing` per prompt.
    """
    timings = {method.name: [Timing() for _ in prompts] for method in methods}
    for method in methods:
        method.run(prompts[0].input_ids, min(WARM_UP_TOKENS, prompts[0].max_new_tokens))
    probe.sample()
    for round_index in range(num_rounds):
        for prompt_index, prompt in enumerate(prompts):
            first = (round_index + prompt_index) % len(methods)
            for method in [*methods[first:], *methods[:first]]:
                timing = timings[method.name][prompt_index]
                started = time.perf_counter()
                timing.tokens, timing.stats = method.run(prompt.input_ids, prompt.max_new_tokens)
                timing.runs_s.append(time.perf_counter() - started)
                if timing.stats is not None:
                    timing.prefill_runs_s.append(timing.stats.prefill_seconds)
            probe.sample()
    return timings


def find_differences(
    timings: dict[str, list[Timing]], prompts: Sequence[TimedPrompt], adapter: ModelAdapter
) -> list[Difference]:
    """Every (method, prompt) whose output is not plain decoding's, with a verdict. All of them greedy."""
    differences = []
    for name, of_method in timings.items():
        for prompt, expected, actual in zip(prompts, timings["plain"], of_method, strict=True):
            request = Request(tuple(prompt.input_ids[0].tolist()), prompt.max_new_tokens)
            difference = find_difference(name, prompt.prompt_id, adapter.model, request, expected.tokens, actual.tokens)
            if difference is not None:
                differences.append(difference)
    return differences
