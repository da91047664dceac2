"""Times methods against each other in one process: interleaved, order rotated, warmed up, outputs compared.

Knows no policy and no prompt file: a method is a function from a prompt, with its limit and its way of choosing
tokens, to tokens and counts.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from specbound.decoding.arguments import batch_from_arguments
from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.greedy_twin import greedy_twin
from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.stats import DecodeStats
from specbound.evaluation.differences import Difference, find_difference
from specbound_controller.policy import Policy
from specbound_profiling.progress import warn_of_long_work, working

WARM_UP_TOKENS = 16
"""Tokens that each method decodes before the clock counts."""
PROBE_TOLERANCE = 0.10
"""Largest relative slowdown of the contention probe."""

GREEDY: Mapping[str, Any] = {"do_sample": False}
"""Arguments of the decoder that take the most probable tokens."""


@dataclass(frozen=True, slots=True)
class TimedPrompt:
    """One prompt for all methods, with one limit and one way of choosing tokens for all."""

    prompt_id: str
    task: str
    input_ids: Tensor
    """(1, T) int64"""
    max_new_tokens: int
    sampling: Mapping[str, Any] = field(default_factory=lambda: GREEDY)
    """Arguments of the decoder that choose the tokens, the prompt's own seed among them where it samples."""


Run = Callable[[TimedPrompt], tuple[list[int], DecodeStats | None]]
"""Decodes one prompt: new tokens, and counts where the method keeps them."""


@dataclass(frozen=True, slots=True)
class Method:
    """One way to decode."""

    name: str
    """As in the `method` column of a report."""
    run: Run


@dataclass(slots=True)
class Timing:
    """What one method did on one prompt."""

    tokens: list[int] = field(default_factory=list)
    """New tokens of the first run."""
    stats: DecodeStats | None = None
    """Counts of the last run; None where the method keeps none."""
    runs_s: list[float] = field(default_factory=list)
    """Seconds from call to return, one per round."""
    prefill_runs_s: list[float] = field(default_factory=list)
    """Of these in prefill; empty where the method keeps no counts."""
    num_deviating_runs: int = 0
    """Runs whose tokens are not the first one's: none, where decoding is what it promises to be."""

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

    def is_shown(self, allow_noise: bool) -> bool:
        """Whether speedups are shown: the machine was quiet, or noise is allowed."""
        return self.is_quiet or allow_noise

    def conditions(self, allow_noise: bool) -> list[str]:
        """What has to be said of a busy machine, one line; nothing of a quiet one."""
        if self.is_quiet:
            return []
        advice = "take the speeds with care" if allow_noise else "no speedup is shown; --allow-noise shows it"
        busy = f"the machine was busy: the same matrix product slowed down by {self.slowdown:.0%}"
        return [f"{busy} (at most {PROBE_TOLERANCE:.0%} is quiet), so {advice}"]


def policy_method(name: str, decoder: SpecBoundDecoder, policy: Policy) -> Method:
    """Our decoder under a policy; `StaticPolicy(())` is plain decoding. Several methods may share one decoder."""

    def run(prompt: TimedPrompt) -> tuple[list[int], DecodeStats]:
        decoder.policy = policy
        output = decoder.decode([prompt.input_ids], max_new_tokens=prompt.max_new_tokens, **prompt.sampling)
        return output.sequences[0, prompt.input_ids.shape[1] :].tolist(), output.stats

    return Method(name, run)


def transformers_method(model: PreTrainedModel) -> Method:
    """transformers' own generate. Where it samples it draws other tokens than our loop does with the same seed."""
    twin = greedy_twin(model)

    def run(prompt: TimedPrompt) -> tuple[list[int], None]:
        input_ids = prompt.input_ids.to(model.device)
        arguments = dict(prompt.sampling)
        if "seed" in arguments:
            torch.manual_seed(arguments.pop("seed"))
        mask = torch.ones_like(input_ids)
        output = twin.generate(input_ids, attention_mask=mask, max_new_tokens=prompt.max_new_tokens, **arguments)
        return output[0, input_ids.shape[1] :].tolist(), None

    return Method("transformers", run)


def time_methods(
    methods: Sequence[Method],
    prompts: Sequence[TimedPrompt],
    num_rounds: int,
    probe: ContentionProbe,
    on_prompt: Callable[[int, int], None] | None = None,
    shorter: str = "",
    is_enough: Callable[[Mapping[str, Sequence[Timing]]], bool] = lambda timings: False,
) -> dict[str, list[Timing]]:
    """Every method on every prompt, one after the other on each prompt, a different one first each time.

    on_prompt: called after each prompt of each round with how many are done, of how many.
    shorter: the options that shorten it, for a warning where it will take long; empty for none.
    is_enough: asked after each round with what there is; no further round is begun where it says so.

    Returns method name -> one `Timing` per prompt.
    """
    timings = {method.name: [Timing() for _ in prompts] for method in methods}
    total = len(methods) * (1 + num_rounds * len(prompts))
    with working(f"{len(methods)} methods on {len(prompts)} prompts", total) as work:
        short = replace(prompts[0], max_new_tokens=min(WARM_UP_TOKENS, prompts[0].max_new_tokens))
        started = time.perf_counter()
        for method in methods:
            method.run(short)
            work.advance()
        if shorter:
            per_token_s = (time.perf_counter() - started) / short.max_new_tokens
            warn_of_long_work(per_token_s * num_rounds * sum(p.max_new_tokens for p in prompts), shorter)
        probe.sample()
        for round_index in range(num_rounds):
            for prompt_index, prompt in enumerate(prompts):
                first = (round_index + prompt_index) % len(methods)
                for method in [*methods[first:], *methods[:first]]:
                    _time(method, prompt, timings[method.name][prompt_index])
                    work.advance()
                probe.sample()
                if on_prompt is not None:
                    on_prompt(round_index * len(prompts) + prompt_index + 1, num_rounds * len(prompts))
            if is_enough(timings):
                break
    return timings


def _time(method: Method, prompt: TimedPrompt, timing: Timing) -> None:
    """One more run."""
    started = time.perf_counter()
    tokens, timing.stats = method.run(prompt)
    timing.runs_s.append(time.perf_counter() - started)
    if len(timing.runs_s) == 1:
        timing.tokens = tokens
    timing.num_deviating_runs += tokens != timing.tokens
    if timing.stats is not None:
        timing.prefill_runs_s.append(timing.stats.prefill_seconds)


def find_differences(
    timings: Mapping[str, Sequence[Timing]],
    prompts: Sequence[TimedPrompt],
    adapter: ModelAdapter,
    exactness: str = "token",
) -> list[Difference]:
    """Every (method, prompt) whose output is not plain decoding's, with a verdict.

    timings: of methods that promise plain decoding's output at this exactness, and `plain`.
    """
    differences = []
    for name, of_method in timings.items():
        for prompt, expected, actual in zip(prompts, timings["plain"], of_method, strict=True):
            if actual.tokens == expected.tokens:
                continue
            arguments = {**prompt.sampling, "max_new_tokens": prompt.max_new_tokens}
            seed = arguments.pop("seed", None)
            twin = greedy_twin(adapter.model)
            batch = batch_from_arguments(twin, adapter, [prompt.input_ids], None, None, seed, arguments)
            difference = find_difference(
                name, prompt.prompt_id, twin, batch.requests[0], expected.tokens, actual.tokens, exactness
            )
            assert difference is not None  # the tokens differ
            differences.append(difference)
    return differences
