"""One compression level, measured: every method on the same prompts in one process, and the limit by replay.

`specbound evaluate` and the last stage of `specbound demo` are this code. Chooses no policy and prints nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.greedy_twin import greedy_twin
from specbound.decoding.model.adapter import ModelAdapter
from specbound.evaluation.decisions import decision_seconds
from specbound.evaluation.rows import PLAIN_AT_TOKEN, Comparison, EvaluatedRow, Evaluation, with_oracle
from specbound.evaluation.timing import (
    GREEDY,
    ContentionProbe,
    Method,
    TimedPrompt,
    Timing,
    find_differences,
    policy_method,
    time_methods,
    transformers_method,
)
from specbound.evaluation.verify import for_prompt
from specbound.exits.trained import new_adapter
from specbound.models.loading import LoadedModel
from specbound.results.rows import THEIRS
from specbound_controller.costs import CostTable
from specbound_controller.figures import number, times
from specbound_controller.policy import Policy, StaticPolicy
from specbound_controller.ratio import ratio
from specbound_controller.records import Decision
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.progress import working
from specbound_profiling.prompts.files import Prompt, spread
from specbound_profiling.prompts.tokenization import tokenize_prompts
from specbound_profiling.recording.record import Recorder
from specbound_profiling.recording.settings import RecordSettings
from specbound_profiling.replay.oracle import oracle, oracle_grid
from specbound_profiling.replay.replay import PLAIN, replay_static

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Protocol:
    """How the methods are measured against each other."""

    num_rounds: int
    """Times that every method decodes every prompt."""
    w_max: int
    """Longest draft of the oracle."""
    seed: int
    """Seed of the bootstrap."""
    allow_noise: bool
    """Show speedups although something else used the machine."""
    exactness: str = "token"
    """Kernels of plain decoding and of the policies."""
    sampling: Mapping[str, Any] = field(default_factory=lambda: GREEDY)
    """Arguments of the decoder that choose the tokens; prompt i samples with its `seed` + i."""
    grid: Sequence[Decision] = ()
    """What `oracle_grid` may choose from; empty leaves its row out."""
    num_decision_prompts: int = 0
    """Prompts to decode once more for the time that decisions take."""
    until: float | None = None
    """Half-width of the contest's interval at which no further round is begun; None takes all rounds."""


@dataclass(frozen=True, slots=True)
class LevelEvaluation:
    """What was measured at one compression level, and what has to be said beside it."""

    evaluation: Evaluation
    rows: list[EvaluatedRow]
    """By kind of content, totals last; within it transformers, plain, the policies, the oracles."""
    comparisons: list[Comparison]
    """The controller against the others; empty where no speedup is shown."""
    probe: ContentionProbe
    allow_noise: bool
    num_loops_cut: int
    num_other_traces: int
    """Prompts whose recorded continuation is not what plain decoding wrote, so that the oracles are of another text."""
    notes: list[str] = field(default_factory=list)
    """One line each, from whoever chose policies and costs."""

    @property
    def is_shown(self) -> bool:
        """Whether speedups are: the machine was quiet, or noise is allowed."""
        return self.probe.is_shown(self.allow_noise)

    @property
    def is_trustworthy(self) -> bool:
        """Every promise was kept, and the machine was quiet or noise is allowed."""
        return self.is_shown and not self.evaluation.refused

    def conditions(self) -> list[str]:
        """What has to be said beside the table. One line each"""
        evaluation = self.evaluation
        speed = ratio(evaluation.tokens_per_second("plain"), evaluation.tokens_per_second("transformers"))
        kernels = ", on the same row-stable kernels" if evaluation.exactness == "bitwise" else ""
        notes = [
            "* replayed on the recorded continuations with knowledge of the future: the limit of any choice",
            f"plain decoding in our loop is {times(speed)} as fast as transformers' generate; "
            f"speedups are over {evaluation.reference}{kernels}",
            *self._claims(),
            f"{self.num_loops_cut} of {len(evaluation.prompts)} continuations were cut where they began to loop, "
            "for every method alike",
            *(difference.describe() for difference in evaluation.differences),
        ]
        if len(evaluation.timings["plain"][0].runs_s) > 1:
            notes.append(evaluation.spread())
        notes += evaluation.power()
        notes += self.probe.conditions(self.allow_noise)
        return notes

    def _claims(self) -> list[str]:
        """What is compared without a claim, and why."""
        evaluation, lines = self.evaluation, []
        if evaluation.is_sampled:
            lines.append("transformers samples with random numbers of its own, other tokens: a speed without a claim")
        if evaluation.exactness == "bitwise":
            lines += self._other_kernels()
        elif evaluation.compression != "none":
            lines.append("at the token level below fp32 outputs may differ: they are counted, no speedup is claimed")
        for name, timings in evaluation.timings.items():
            num_runs = sum(timing.num_deviating_runs for timing in timings)
            if num_runs:
                lines.append(f"{name} gave other tokens than in its first run, {num_runs} times: no speedup is claimed")
        if self.num_other_traces:
            lines.append(f"the oracles are of another text on {self.num_other_traces} prompts: rounding moved a token")
        return lines

    def _other_kernels(self) -> list[str]:
        """The model's own kernels beside the bitwise ones."""
        totals = {row.method: row for row in self.rows if row.task == "all" and row.exactness == "token"}
        plain = totals["plain"]
        return [
            f"on its own kernels (exactness token) plain decoding makes {number(plain.tokens_per_second, 1)} tokens/s; "
            f"{plain.num_differing_tokens} of {plain.num_tokens} tokens differ from the bitwise ones: no claim"
        ]


def timed_prompts(
    prompts: Sequence[Prompt],
    loaded: LoadedModel,
    max_new_tokens: int,
    sampling: Mapping[str, Any] = GREEDY,
    is_raw: bool = False,
    exactness: str = "token",
) -> list[TimedPrompt]:
    """Prompts cut to the model's room like those of profiling. Raises InputError where one cannot be used."""
    all_ids = tokenize_prompts(prompts, loaded, ModelAdapter(loaded.model), max_new_tokens, is_raw, exactness)
    return [
        TimedPrompt(prompt.prompt_id, prompt.task, ids, max_new_tokens, for_prompt(dict(sampling), index))
        for index, (prompt, ids) in enumerate(zip(prompts, all_ids, strict=True))
    ]


def evaluate_level(
    loaded: LoadedModel,
    prompts: Sequence[TimedPrompt],
    policies: Mapping[str, Policy],
    costs: CostTable,
    exit_layers: Sequence[int],
    protocol: Protocol,
    say: Say,
    peers: Sequence[Method] = (),
) -> LevelEvaluation:
    """Records what plain decoding writes, times all methods on it, and replays the oracles on the same texts.

    Args:
        prompts: all with one limit; each is cut where its own continuation begins to loop.
        policies: name -> policy, in the order of the table.
        costs: prices of the oracles' work.
        exit_layers: exits that the oracles may choose from.
        say: gets a line as each part begins.
        peers: methods of transformers that draft, by the names in `PEERS`.
    """
    say(f"{loaded.compression}: recording what plain decoding writes on {len(prompts)} prompts")
    adapter = new_adapter(loaded)
    traces = _record(adapter, prompts, exit_layers, protocol)
    prompts = [replace(p, max_new_tokens=t.num_positions) for p, t in zip(prompts, traces, strict=True)]  # loops cut
    twin = greedy_twin(loaded.model)
    decoder = SpecBoundDecoder(
        twin, None, loaded.compression, record_steps=False, exactness=protocol.exactness, exits=loaded.exits
    )
    methods = _methods(loaded, decoder, policies, peers)
    say(f"{loaded.compression}: decoding them with {len(methods)} methods, interleaved, {protocol.num_rounds} times")
    probe = ContentionProbe()
    shorter = "--num-prompts, --rounds and --max-new-tokens shorten it"

    def is_enough(so_far: Mapping[str, Sequence[Timing]]) -> bool:
        found = Evaluation(prompts, so_far, [], loaded.compression, adapter.num_layers, protocol.seed)
        return protocol.until is not None and found.half_interval() <= protocol.until

    timings = time_methods(methods, prompts, protocol.num_rounds, probe, shorter=shorter, is_enough=is_enough)
    is_promised = loaded.compression == "none" or decoder.exactness == "bitwise"
    without_claim = set(timings) - {"plain"} if not is_promised else set[str]()
    if decoder.exactness == "bitwise" or protocol.sampling.get("do_sample"):
        without_claim |= {*THEIRS, PLAIN_AT_TOKEN} & set(timings)
    promised = {name: of_method for name, of_method in timings.items() if name not in without_claim}
    evaluation = Evaluation(
        prompts,
        timings,
        find_differences(promised, prompts, adapter, decoder.exactness),
        loaded.compression,
        adapter.num_layers,
        protocol.seed,
        decoder.exactness,
        without_claim,
    )
    with working("replaying the limits"):
        limits = _replayed(evaluation, traces, costs, protocol)
    rows = evaluation.timed_rows() + limits
    rows.sort(key=lambda row: evaluation.tasks.index(row.task))
    is_shown = probe.is_shown(protocol.allow_noise)
    rows = with_oracle(row if is_shown else row.without_speedup() for row in rows)
    return LevelEvaluation(
        evaluation,
        _with_decisions(rows, _decisions(decoder, policies, prompts, protocol, say)),
        evaluation.comparisons() if is_shown else [],
        probe,
        protocol.allow_noise,
        sum(trace.is_loop_cut for trace in traces),
        sum(a.tokens.tolist() != b.tokens for a, b in zip(traces, timings["plain"], strict=True)),
    )


def _record(
    adapter: ModelAdapter, prompts: Sequence[TimedPrompt], exit_layers: Sequence[int], protocol: Protocol
) -> list[PromptTrace]:
    limit = prompts[0].max_new_tokens
    settings = RecordSettings(tuple(sorted(exit_layers)), limit, sampling=protocol.sampling)
    recorder = Recorder(adapter, settings, protocol.exactness)
    traces = []
    with working("recording what plain decoding writes", len(prompts)) as work:
        for index, prompt in enumerate(prompts):
            trace = recorder.record(prompt.input_ids, index)
            traces.append(replace(trace, prompt_id=prompt.prompt_id, task=prompt.task))
            work.advance()
    return traces


def _methods(
    loaded: LoadedModel, decoder: SpecBoundDecoder, policies: Mapping[str, Policy], peers: Sequence[Method]
) -> list[Method]:
    """transformers' and plain decoding first; at the bitwise level plain decoding on the model's own kernels too."""
    methods = [transformers_method(loaded.model), *peers]
    if decoder.exactness == "bitwise":
        own = SpecBoundDecoder(decoder.model, None, loaded.compression, record_steps=False)
        methods.append(policy_method(PLAIN_AT_TOKEN, own, StaticPolicy(())))
    methods.append(policy_method("plain", decoder, StaticPolicy(())))
    return methods + [policy_method(name, decoder, policy) for name, policy in policies.items()]


def _replayed(
    evaluation: Evaluation, traces: Sequence[PromptTrace], costs: CostTable, protocol: Protocol
) -> list[EvaluatedRow]:
    num_layers = evaluation.num_layers
    plain = replay_static(traces, PLAIN, costs, num_layers)
    limits = {"oracle": oracle(traces, costs, num_layers, protocol.w_max)}
    if protocol.grid:
        limits = {"oracle_grid": oracle_grid(traces, costs, num_layers, protocol.grid), **limits}
    return [row for name, limit in limits.items() for row in evaluation.replayed_rows(name, limit, plain)]


def _decisions(
    decoder: SpecBoundDecoder,
    policies: Mapping[str, Policy],
    prompts: Sequence[TimedPrompt],
    protocol: Protocol,
    say: Say,
) -> dict[str, float]:
    """Policy -> seconds of decisions per step; empty where that is not asked for."""
    if not protocol.num_decision_prompts:
        return {}
    chosen = [prompts[i] for i in spread([prompt.task for prompt in prompts], protocol.num_decision_prompts)]
    say(f"{decoder.compression}: decoding {len(chosen)} prompts once more, with a stopwatch in every policy")
    return decision_seconds(decoder, policies, chosen)


def _with_decisions(rows: Sequence[EvaluatedRow], seconds: Mapping[str, float]) -> list[EvaluatedRow]:
    return [
        replace(row, decision_s_per_step=seconds[row.method]) if row.task == "all" and row.method in seconds else row
        for row in rows
    ]
