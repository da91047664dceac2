"""The whole chain on one model: profile, train a controller on the log, time it on other prompts.

Each stage is the one that its own command runs; this module only hands files from one to the next.
"""

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from specbound import __version__
from specbound.config import DemoConfig
from specbound.decoding.adapter import ModelAdapter
from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.request import greedy_twin
from specbound.evaluation import Evaluation
from specbound.fingerprint import model_fingerprint
from specbound.loading import load_model
from specbound.measure import (
    PROBE_TOLERANCE,
    ContentionProbe,
    Method,
    TimedPrompt,
    find_differences,
    policy_method,
    time_methods,
    transformers_method,
)
from specbound.report import Row, machine_info, model_info
from specbound_controller.actions import Action
from specbound_controller.controller import Controller
from specbound_controller.errors import InputError
from specbound_controller.policy import StaticPolicy
from specbound_profiling.best_static import best_static_action
from specbound_profiling.config import ProfileConfig
from specbound_profiling.log import StepLog, open_log
from specbound_profiling.oracle import oracle
from specbound_profiling.profile import profile
from specbound_profiling.progress import status
from specbound_profiling.prompts import load_prompts
from specbound_profiling.record import record_continuation
from specbound_profiling.replay import PLAIN, replay_static
from specbound_profiling.tokenization import tokenize_prompts
from specbound_profiling.trace import PromptTrace
from specbound_train.config import TrainConfig
from specbound_train.train import train_controller

COMPRESSION = "none"
"""The demonstration runs in fp32, where outputs are equal token by token."""


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The table and what has to be said beside it."""

    model: dict[str, Any]
    """What a report says of the model."""
    rows: list[Row]
    """By kind of content, totals last; within it transformers, plain, best static, controller, oracle."""
    notes: list[str]
    """One line each."""
    is_trustworthy: bool
    """Outputs are equal up to verified near-ties, and the machine was quiet or noise is allowed."""


def run_demo(config: DemoConfig, say: Callable[[str], None]) -> DemoResult:
    """Runs the chain in `config.out` or a temporary folder. `say` gets a line as each stage begins."""
    started = time.perf_counter()
    with _work_folder(config.out) as name:
        folder = Path(name)
        log_dir, controller_dir = folder / "log", folder / "controller"
        if controller_dir.exists():
            raise InputError(f"out must be empty or hold no finished demo, got {folder}; choose another folder")
        prompts = evaluation_prompts(config)
        say(f"[1/3] profiling {config.num_profile_prompts} prompts x {config.max_new_tokens} tokens")
        profile(
            ProfileConfig(
                model=config.model,
                prompts=config.profile_prompts,
                num_prompts=config.num_profile_prompts,
                max_new_tokens=config.max_new_tokens,
                num_cost_steps=config.num_cost_steps,
                out=str(log_dir),
                seed=config.seed,
            )
        )
        say("[2/3] training a controller on the log")
        with status("fitting"):
            train_controller(TrainConfig(log=str(log_dir), out=str(controller_dir), seed=config.seed))
        say(f"[3/3] decoding {config.num_evaluation_prompts} other prompts with every method, interleaved")
        result = evaluate(config, prompts, open_log(log_dir), Controller.load(controller_dir))
    machine = machine_info()
    result.notes.append(f"measured on {machine['name']}, {machine['num_cores']} cores, specbound {__version__}")
    result.notes.append(f"the whole chain took {time.perf_counter() - started:.0f} s")
    return result


def _work_folder(out: str | None) -> AbstractContextManager[str]:
    if out is None:
        return tempfile.TemporaryDirectory(prefix="specbound-demo-")
    return nullcontext(str(Path(out).expanduser()))


def evaluation_prompts(config: DemoConfig) -> list[TimedPrompt]:
    """The evaluation prompts, cut to the model's room like those of profiling.

    Raises InputError where one cannot be used; called first, so that this is not found out after all the work.
    """
    prompts = load_prompts(config.evaluation_prompts, config.num_evaluation_prompts)
    loaded = load_model(config.model, COMPRESSION)
    all_ids = tokenize_prompts(prompts, loaded, ModelAdapter(loaded.model), config.max_new_tokens)
    return [
        TimedPrompt(prompt.prompt_id, prompt.task, input_ids, config.max_new_tokens)
        for prompt, input_ids in zip(prompts, all_ids, strict=True)
    ]


def evaluate(config: DemoConfig, prompts: Sequence[TimedPrompt], log: StepLog, controller: Controller) -> DemoResult:
    """Times all methods on the evaluation prompts and replays the oracle on their traces."""
    loaded = load_model(config.model, COMPRESSION)
    adapter = ModelAdapter(loaded.model)
    controller.check_model(model_fingerprint(loaded.model), adapter.num_layers)
    costs = log.costs[COMPRESSION]
    traces = [
        record_continuation(adapter, p.input_ids, controller.config.exit_layers, p.max_new_tokens) for p in prompts
    ]
    prompts = [replace(p, max_new_tokens=t.num_positions) for p, t in zip(prompts, traces, strict=True)]  # loops cut
    static = best_static_action(log.traces(COMPRESSION), costs, adapter.num_layers, controller.config.alpha)
    decoder = SpecBoundDecoder(greedy_twin(loaded.model), compression=COMPRESSION, record_steps=False)
    methods = [
        transformers_method(loaded.model),
        policy_method("plain", decoder, StaticPolicy(())),
        policy_method("best_static", decoder, static_policy(static, controller.config.alpha)),
        policy_method("controller", decoder, controller.policy(costs, COMPRESSION)),
    ]
    probe = ContentionProbe()
    evaluation = time_all(config, methods, prompts, adapter, probe)
    replayed = oracle(traces, costs, adapter.num_layers, config.w_max)
    plain = replay_static(traces, PLAIN, costs, adapter.num_layers)
    rows = evaluation.timed_rows() + evaluation.replayed_rows("oracle", replayed, plain)
    rows.sort(key=lambda row: evaluation.tasks.index(row.task))
    is_equal = not any(row.outputs_equal is False and math.isnan(row.speedup) for row in rows)
    is_quiet = probe.is_quiet or config.allow_noise
    rows = rows if is_quiet else [row.without_speedup() for row in rows]
    notes = [*_choices(static, controller), *_gains(rows), *_conditions(config, evaluation, traces, probe)]
    return DemoResult(model_info(config.model, loaded.model), rows, notes, is_quiet and is_equal)


def time_all(
    config: DemoConfig,
    methods: Sequence[Method],
    prompts: Sequence[TimedPrompt],
    adapter: ModelAdapter,
    probe: ContentionProbe,
) -> Evaluation:
    """Interleaved timings, and every output compared with plain decoding's."""
    with status("decoding"):
        timings = time_methods(methods, prompts, config.num_rounds, probe)
    differences = find_differences(timings, prompts, adapter)
    return Evaluation(prompts, timings, differences, COMPRESSION, adapter.num_layers, config.seed)


def static_policy(action: Action, alpha: float) -> StaticPolicy:
    """The policy that plays one action at every step."""
    exits = (action.exit_layer,) if action.width else ()
    return StaticPolicy(exits, action.threshold, action.width, alpha=alpha, combine=action.combine)


def _choices(static: Action, controller: Controller) -> list[str]:
    played = controller.config.static_actions.get(COMPRESSION)
    lines = [f"best static, chosen on the profiling prompts: {static.name}"]
    if played is not None:
        lines.append(f"the controller found nothing faster on its validation prompts than {played.name} at every step")
    return lines


def _conditions(
    config: DemoConfig, evaluation: Evaluation, traces: Sequence[PromptTrace], probe: ContentionProbe
) -> list[str]:
    indices = evaluation.indices("all")
    seconds = {name: evaluation.seconds(name, indices).sum() for name in evaluation.timings}
    num_cut = sum(trace.is_loop_cut for trace in traces)
    notes = [
        "* replayed on the recorded continuations with knowledge of the future: the limit of any choice",
        f"plain decoding in our loop is {seconds['transformers'] / seconds['plain']:.2f}x as fast as transformers' "
        f"generate; speedups are over {evaluation.reference}",
        f"{num_cut} of {len(traces)} continuations were cut where they began to loop, for every method alike",
        *(difference.describe() for difference in evaluation.differences),
    ]
    if config.num_rounds > 1:
        notes.append(evaluation.spread())
    if not probe.is_quiet:
        notes.append(
            f"the machine was busy: the same matrix product slowed down by {probe.slowdown:.0%} "
            f"(at most {PROBE_TOLERANCE:.0%} is quiet), so "
            + ("take the speeds with care" if config.allow_noise else "no speedup is shown; --allow-noise shows it")
        )
    return notes


def _gains(rows: Sequence[Row]) -> list[str]:
    """Intervals, and how much of the oracle's gain each method takes; nothing where no speedup is shown."""
    totals = {row.method: row for row in rows if row.task == "all"}
    lines = []
    for name in ("best_static", "controller"):
        row = totals[name]
        if math.isnan(row.speedup):
            continue
        share = (row.speedup - 1) / (totals["oracle"].speedup - 1) if totals["oracle"].speedup > 1 else math.nan
        low, high = row.speedup_low, row.speedup_high
        interval = "" if math.isnan(low) else f" (95 % interval over prompts {low:.2f} to {high:.2f})"
        lines.append(f"{name.replace('_', ' ')}: {row.speedup:.2f}x{interval}, {share:.0%} of the oracle's gain")
    return lines
