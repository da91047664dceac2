"""Replayed against live: the same policies on prompts of a log, with the real decoder. Writes nothing but, where asked
for, the live steps into the log.

Steps are timed with the clock that cost tables are measured with. The first step of each prompt is left out of the
seconds on both sides, as it is there: it begins in prefill.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import pairwise
from math import nan
from statistics import median
from typing import Any

import torch
from torch import Tensor

from specbound.analysis.logged import load_logged
from specbound.decoding.decoder import SpecBoundDecoder, request_of
from specbound.decoding.greedy_twin import greedy_twin
from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.stats import DecodeStats
from specbound.evaluation.differences import Difference, find_difference
from specbound.models.fingerprint import model_fingerprint
from specbound.models.loading import LoadedModel
from specbound_controller.costs import CostTable
from specbound_controller.draft_vocabulary import DraftVocabulary
from specbound_controller.errors import InputError
from specbound_controller.fingerprint import same_model
from specbound_controller.policy import DraftingFrom, Policy
from specbound_controller.ratio import ratio
from specbound_controller.records import StepRecord
from specbound_controller.work import record_work
from specbound_profiling.costs.machine import machine_fingerprint
from specbound_profiling.costs.stopwatch import Probe, step_clock
from specbound_profiling.log.live_steps import LiveSteps
from specbound_profiling.log.store import StepLog
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.prompts.files import load_prompts, prompts_hash, spread
from specbound_profiling.prompts.tokenization import tokenize_prompts
from specbound_profiling.replay.replay import replay
from specbound_profiling.replay.result import ReplayResult

TOLERANCES = {"tokens per step": 0.02, "layer calls per token": 0.02, "seconds": 0.10, "tokens per second": 0.10}
"""Largest relative deviation of a replay from live decoding that counts as agreement."""
WARM_UP_TOKENS = 16


@dataclass(frozen=True, slots=True)
class LiveItem:
    """One figure of one policy, both ways."""

    compression: str
    policy: str
    item: str
    """A key of `TOLERANCES`."""
    num_prompts: int
    """Prompts whose outputs are equal: others are left out."""
    replayed: float
    live: float

    @property
    def deviation(self) -> float:
        """Replayed over live, less 1."""
        return ratio(self.replayed, self.live) - 1.0

    @property
    def tolerance(self) -> float:
        return TOLERANCES[self.item]

    @property
    def is_within(self) -> bool:
        """Whether the deviation is within its tolerance; nan is not."""
        return abs(self.deviation) <= self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """For a report."""
        return {
            **asdict(self),
            "deviation": self.deviation,
            "tolerance": self.tolerance,
            "is_within": self.is_within,
        }


@dataclass(slots=True)
class LiveComparison:
    """All figures of a level, and where outputs differ from the log's."""

    items: list[LiveItem] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    """One line for each prompt whose output is not the log's, with a verdict."""
    speed: str = ""
    """One line: the speed of the machine against that at which the cost table was measured."""
    num_bugs: int = 0
    """Those that rounding does not explain."""


@dataclass(frozen=True, slots=True)
class _Prompt:
    """One prompt of the log, and how it was decoded."""

    ids: Tensor
    """(1, T) int64"""
    trace: PromptTrace
    arguments: dict[str, Any]
    """Of the decoder."""


@dataclass(frozen=True, slots=True)
class _Run:
    """One policy on one prompt."""

    tokens: list[int]
    """New tokens."""
    stats: DecodeStats
    step_seconds: tuple[float, ...]
    """Of every step; nan of the first."""
    late_seconds: float
    """Of all steps but the first."""
    probe_s: float
    """Of the stopwatch's probe, right after the last step."""

    def live_steps(self, prompt_id: str, compression: str, policy: str) -> LiveSteps:
        """The steps for a log."""
        timed = zip(self.stats.steps, self.step_seconds, strict=True)
        records = tuple(replace(record, seconds=seconds) for record, seconds in timed)
        return LiveSteps(prompt_id, compression, policy, records)


def compare_live(
    log: StepLog,
    compression: str,
    costs: CostTable,
    num_prompts: int,
    policies: Mapping[str, Callable[[], Policy]],
    num_rounds: int = 1,
    save_steps: bool = False,
    exits: str | None = None,
) -> LiveComparison:
    """Decodes some of a log's prompts under every policy, one after the other on each, and replays it on their traces.

    Args:
        policies: name -> makes a fresh policy; both ways begin with one, and take the prompts in one order.
        num_rounds: times that every prompt is decoded; the median of its seconds counts.
        save_steps: keep the steps of the first round in the log.
        exits: where the trained exits of the log are.

    Raises:
        InputError: the log's model or prompts are not to be had, or are others now.
    """
    loaded, prompts = _logged(log, compression, num_prompts, exits)
    vocabulary = log.manifest.drafted_tokens()
    if vocabulary is not None:  # what a policy reads live is what the log's exits read
        policies = {name: partial(_over, vocabulary, new_policy) for name, new_policy in policies.items()}
    exactness, num_layers = log.manifest.exactness_of(compression), log.manifest.num_layers
    decoders = {}
    for name, new_policy in policies.items():
        decoders[name] = SpecBoundDecoder(
            greedy_twin(loaded.model), new_policy(), compression, exactness=exactness, exits=loaded.exits
        )
        decoders[name].decode([prompts[0].ids], max_new_tokens=WARM_UP_TOKENS)
    all_runs = _interleaved(decoders, policies, prompts, num_rounds)
    probes = [run.probe_s for runs in all_runs.values() for run in runs]
    result = LiveComparison(speed=f"{compression}: {speed_line(costs, loaded.model.device, median(probes))}")
    for name, new_policy in policies.items():
        decoder, runs = decoders[name], all_runs[name]
        traces = [prompt.trace for prompt in prompts]
        if save_steps:
            of_prompts = zip(prompts, runs, strict=True)
            steps = [run.live_steps(prompt.trace.prompt_id, compression, name) for prompt, run in of_prompts]
            log.write_live_steps(compression, name, steps)
        replayed = replay(traces, new_policy(), costs, num_layers, compression, keep_records=True)
        equal = []
        for index, (prompt, run) in enumerate(zip(prompts, runs, strict=True)):
            difference = _difference(name, decoder, prompt, run)
            if difference is None:
                equal.append(index)
                continue
            result.differences.append(f"{compression}: {difference.describe()}")
            result.num_bugs += not difference.is_near_tie
        figures = _figures(replayed.only(equal), [runs[i] for i in equal], costs, decoder.policy.needs_features)
        result.items += [LiveItem(compression, name, item, len(equal), *both) for item, both in figures.items()]
    return result


def _over(vocabulary: DraftVocabulary, new_policy: Callable[[], Policy]) -> Policy:
    """A fresh policy that drafts from a draft vocabulary."""
    return DraftingFrom(vocabulary, new_policy())


def _interleaved(
    decoders: Mapping[str, SpecBoundDecoder],
    policies: Mapping[str, Callable[[], Policy]],
    prompts: Sequence[_Prompt],
    num_rounds: int,
) -> dict[str, list[_Run]]:
    """Policy -> one run for each prompt with its median seconds; another policy begins each time."""
    names = list(policies)
    found: dict[str, list[list[_Run]]] = {name: [[] for _ in prompts] for name in names}
    for number in range(num_rounds):
        for name in names:
            decoders[name].policy = policies[name]()
        for index, prompt in enumerate(prompts):
            first = (number + index) % len(names)
            for name in names[first:] + names[:first]:
                found[name][index].append(_decode(decoders[name], prompt))
    return {
        name: [replace(runs[0], late_seconds=median(run.late_seconds for run in runs)) for runs in of_prompts]
        for name, of_prompts in found.items()
    }


def _logged(log: StepLog, compression: str, num_prompts: int, exits: str | None) -> tuple[LoadedModel, list[_Prompt]]:
    """The log's model, and some of its prompts: the first of each kind of content, the second of each, ..."""
    manifest, traces = log.manifest, log.traces(compression)
    loaded = load_logged(manifest, compression, exits)
    fingerprint = model_fingerprint(loaded.model)
    if not same_model(fingerprint, manifest.model_fingerprint):
        raise InputError(
            f"live needs the model of the log, with fingerprint {manifest.model_fingerprint[:16]}, "
            f"got {fingerprint[:16]} ({manifest.model})"
        )
    texts = load_prompts(manifest.prompts, manifest.num_prompts)
    if prompts_hash(texts) != manifest.prompts_hash:
        raise InputError(f"live needs the prompts of the log, but {manifest.prompts} has changed since")
    exactness = manifest.exactness_of(compression)
    adapter = ModelAdapter(loaded.model)
    all_ids = tokenize_prompts(texts, loaded, adapter, manifest.max_new_tokens, not manifest.is_chat, exactness)
    end = {"eos_token_id": list(manifest.eos_token_ids)} if manifest.eos_token_ids else {}
    return loaded, [
        _Prompt(
            all_ids[index],
            traces[index],
            {**manifest.sampling_of(index), **end, "max_new_tokens": traces[index].length_limit},
        )
        for index in spread([trace.task for trace in traces], num_prompts)
    ]


def speed_line(costs: CostTable, device: torch.device | str, probe_s: float) -> str:
    """How fast the machine is now, by the probe, beside what it was when the cost table was measured."""
    here, slowdown = machine_fingerprint(device), costs.slowdown(probe_s)
    if costs.machine != here:
        return f"costs are another machine's ({costs.machine}), so seconds need not agree with those of {here}"
    if slowdown is None:
        return "the cost table does not say how fast the machine was when it was measured"
    word = "slower" if slowdown >= 0 else "faster"
    return f"the machine is {abs(slowdown):.0%} {word} than when it was priced, by a fixed piece of the model"


def _decode(decoder: SpecBoundDecoder, prompt: _Prompt) -> _Run:
    clock, marks = step_clock(decoder.adapter.device), []

    def mark(record: StepRecord, row: int) -> None:
        marks.append(clock())

    output = decoder.decode([prompt.ids], on_step=mark, **prompt.arguments)
    probe_s = Probe(decoder.adapter, clock)()
    tokens = output.sequences[0, prompt.ids.shape[1] :].tolist()
    seconds = (nan, *(later - earlier for earlier, later in pairwise(marks))) if marks else ()
    return _Run(tokens, output.stats, seconds, marks[-1] - marks[0] if marks else 0.0, probe_s)


def _difference(name: str, decoder: SpecBoundDecoder, prompt: _Prompt, run: _Run) -> Difference | None:
    """Where the output is not the log's, with a verdict."""
    expected = prompt.trace.tokens.tolist()
    if run.tokens == expected:
        return None
    request = request_of(decoder, prompt.ids, prompt.arguments)
    return find_difference(
        name, prompt.trace.prompt_id, decoder.model, request, expected, run.tokens, decoder.exactness
    )


def _figures(
    replayed: ReplayResult, runs: Sequence[_Run], costs: CostTable, needs_features: bool
) -> dict[str, tuple[float, float]]:
    """Item -> replayed and live."""
    total = sum((run.stats for run in runs), DecodeStats())
    assert replayed.records is not None  # they were kept
    late = [record for records in replayed.records for record in records[1:]]
    seconds = sum(float(costs.seconds(record_work(record, needs_features))) for record in late)
    live_seconds = sum(run.late_seconds for run in runs)
    live_tokens = sum(record.num_emitted for run in runs for record in run.stats.steps[1:])
    return {
        "tokens per step": (replayed.tokens_per_step, total.tokens_per_step),
        "layer calls per token": (replayed.layer_calls_per_token, total.layer_calls_per_token),
        "seconds": (seconds, live_seconds),
        "tokens per second": (
            ratio(sum(record.num_emitted for record in late), seconds),
            ratio(live_tokens, live_seconds),
        ),
    }
