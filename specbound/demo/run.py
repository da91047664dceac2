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
from specbound.bench.transformers_methods import Assistance, TransformersMethod
from specbound.bench.tuning import fastest
from specbound.demo.config import DemoConfig
from specbound.evaluation.best_static import StaticChoice, StaticSearch, choose_static
from specbound.evaluation.best_tree import TreeChoice, choose_tree
from specbound.evaluation.level import Protocol, evaluate_level, timed_prompts
from specbound.evaluation.rows import EvaluatedRow
from specbound.evaluation.timing import Method, TimedPrompt
from specbound.exits.trained import with_exits
from specbound.models.fingerprint import model_fingerprint
from specbound.models.loading import LoadedModel, load_model
from specbound.policies import controller_policy
from specbound.pricing.local import measured_once
from specbound.results.report import machine_info, model_info
from specbound.results.rows import Row
from specbound.stores.trees import local_situation
from specbound_controller.controller import Controller
from specbound_controller.errors import InputError
from specbound_controller.figures import share, times
from specbound_controller.policy import Policy
from specbound_controller.settings import both
from specbound_profiling.log.store import StepLog, open_log
from specbound_profiling.progress import status
from specbound_profiling.prompts.files import load_prompts
from specbound_profiling.recording.config import ProfileConfig
from specbound_profiling.recording.profile import profile
from specbound_train.config import TrainConfig
from specbound_train.train import train_controller

COMPRESSION = "none"
"""The demonstration runs in fp32, where outputs are equal token by token."""
TUNING_TOKENS = 32
"""Tokens of each profiling prompt in the races of static settings and of draft trees."""
PROMPT_LOOKUP, LOOKUP_LENGTHS, NUM_LOOKUP_PROMPTS = "prompt_lookup", (2, 4, 10), 3
"""transformers' fastest way to draft without a second model: its lengths, raced on so many of those prompts."""


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The table and what has to be said beside it."""

    model: dict[str, Any]
    """What a report says of the model."""
    rows: list[Row]
    """By kind of content, totals last; within it transformers and its prompt lookup, plain, best static, best tree,
    controller, oracle."""
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
                exits=config.exits,
                prompts=config.profile_prompts,
                num_prompts=config.num_profile_prompts,
                max_new_tokens=config.max_new_tokens,
                num_cost_steps=config.num_cost_steps,
                out=str(log_dir),
                seed=config.seed,
            ),
            measured_once,
        )
        say("[2/3] training a controller on the log")
        with status("fitting"):
            train_controller(TrainConfig(log=str(log_dir), out=str(controller_dir), seed=config.seed))
        say(f"[3/3] decoding {config.num_evaluation_prompts} other prompts with every method, interleaved")
        result = evaluate(config, prompts, open_log(log_dir), Controller.load(controller_dir), say)
    machine = machine_info()
    result.notes.append(f"measured on {machine['name']}, {machine['num_cores']} cores, specbound {__version__}")
    result.notes.append(f"the whole chain took {time.perf_counter() - started:.0f} s")
    return result


def _work_folder(out: str | None) -> AbstractContextManager[str]:
    if out is None:
        return tempfile.TemporaryDirectory(prefix="specbound-demo-")
    return nullcontext(str(Path(out).expanduser()))


def evaluation_prompts(config: DemoConfig) -> list[TimedPrompt]:
    """The evaluation prompts. Raises InputError where one cannot be used; called first, so that this is not found out
    after all the work.
    """
    prompts = load_prompts(config.evaluation_prompts, config.num_evaluation_prompts)
    return timed_prompts(prompts, _loaded(config), config.max_new_tokens)


def _loaded(config: DemoConfig) -> LoadedModel:
    return with_exits(load_model(config.model, COMPRESSION), config.exits)


def _tuning_prompts(config: DemoConfig, loaded: LoadedModel) -> list[TimedPrompt]:
    """The profiling prompts, short: what static settings and draft trees race on."""
    prompts = load_prompts(config.profile_prompts, config.num_profile_prompts)
    timed = timed_prompts(prompts, loaded, config.max_new_tokens)
    return [replace(prompt, max_new_tokens=min(TUNING_TOKENS, prompt.max_new_tokens)) for prompt in timed]


def evaluate(
    config: DemoConfig, prompts: Sequence[TimedPrompt], log: StepLog, controller: Controller, say: Callable[[str], None]
) -> DemoResult:
    """Measures the controller beside the best static setting and the best draft tree, as `specbound evaluate` does."""
    loaded = _loaded(config)
    num_layers, alpha = log.manifest.num_layers, controller.config.alpha
    controller.check_model(model_fingerprint(loaded.model), num_layers)
    costs = log.costs[COMPRESSION]
    search = StaticSearch(
        loaded,
        _tuning_prompts(config, loaded),
        "the profiling prompts",
        costs,
        controller.config.exit_layers,
        alpha=alpha,
        traces=log.traces(COMPRESSION),
    )
    static = choose_static(search, say)
    lookup = _prompt_lookup(loaded, search.prompts[:NUM_LOOKUP_PROMPTS])
    situation = local_situation(loaded.model, costs, say)
    tree = choose_tree(search, situation, say)
    policies: dict[str, Policy] = {
        "best_static": static.policy(),
        "best_tree": tree.policy(situation),
        "controller": controller_policy("controller", COMPRESSION, costs, controller, situation.sources),
    }
    protocol = Protocol(config.num_rounds, config.w_max, config.seed, config.allow_noise)
    peers = [Method(lookup.name, lookup.run)]
    level = evaluate_level(
        loaded, prompts, policies, costs, controller.config.exit_layers, protocol, _say_nothing, peers
    )
    notes = [
        f"transformers' prompt lookup: {lookup.setting}",
        *_choices(static, tree, controller),
        *_gains(level.rows),
        *level.conditions(),
    ]
    return DemoResult(model_info(config.model, loaded.model), list(level.rows), notes, level.is_trustworthy)


def _prompt_lookup(loaded: LoadedModel, prompts: Sequence[TimedPrompt]) -> TransformersMethod:
    """transformers' own, at its fastest length."""
    settings = [Assistance(PROMPT_LOOKUP, length) for length in LOOKUP_LENGTHS]
    return fastest([TransformersMethod(PROMPT_LOOKUP, loaded.model, each) for each in settings], prompts)


def _say_nothing(line: str) -> None:
    """The demo says what its stages are itself."""


def _choices(static: StaticChoice, tree: TreeChoice, controller: Controller) -> list[str]:
    played = controller.config.static_actions.get(COMPRESSION)
    lines = [f"best static: {static.describe()}", f"best tree: {tree.describe()}"]
    if played is not None:
        lines.append(
            f"the controller found nothing faster on its validation prompts than {both(played.name)} at every step"
        )
    return lines


def _gains(rows: Sequence[EvaluatedRow]) -> list[str]:
    """Intervals, and how much of the oracle's gain each method takes; nothing where no speedup is shown."""
    totals = {row.method: row for row in rows if row.task == "all"}
    lines = []
    for name in ("best_static", "best_tree", "controller"):
        row = totals[name]
        if math.isnan(row.speedup):
            continue
        low, high = row.speedup_low, row.speedup_high
        interval = "" if math.isnan(low) else f" (95 % interval over prompts {low:.2f} to {high:.2f})"
        of_gain = f"{share(row.share_of_oracle_gain)} of the oracle's gain"
        lines.append(f"{name.replace('_', ' ')}: {times(row.speedup)}{interval}, {of_gain}")
    return lines
