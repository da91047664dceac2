"""The best fixed setting of this model on this machine: ranked by replay at today's prices, then raced by the clock.

Chosen on tuning prompts, never on those that are measured, and kept for each user, machine, model and level as cost
tables are. Knows no command line.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.greedy_twin import greedy_twin
from specbound.decoding.model.adapter import ModelAdapter
from specbound.evaluation.timing import ContentionProbe, TimedPrompt, policy_method
from specbound.evaluation.tournament import Standing, successive_halving
from specbound.exits.trained import new_adapter
from specbound.models.fingerprint import model_fingerprint
from specbound.models.loading import LoadedModel
from specbound.policies import static_policy
from specbound.results.files import write_whole
from specbound_controller.actions import PLAIN, Action, static_grid
from specbound_controller.costs import CostTable
from specbound_controller.draft_vocabulary import DraftVocabulary
from specbound_controller.fingerprint import exact_part
from specbound_controller.policy import AnnealedConfidence, DraftingFrom, Policy, StaticPolicy
from specbound_controller.settings import both, in_words
from specbound_profiling.costs.machine import machine_fingerprint
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.progress import working
from specbound_profiling.recording.record import Recorder
from specbound_profiling.recording.rollout import RolloutSettings
from specbound_profiling.recording.settings import RecordSettings
from specbound_profiling.replay.annealing import fit_alpha
from specbound_profiling.replay.best_static import static_seconds

NUM_RACED = 16
"""Settings, the fastest by replay, that race each other."""
NUM_SHOWN = 4
"""Finalists that a note names."""
ROLLOUT_RATE, ROLLOUT_WIDTH = 0.05, 8
"""Share of the wrong drafts that recording follows, and how far; what replay has to estimate is enough to rank by."""
SCHEMA = 1
Say = Callable[[str], None]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StaticSearch:
    """Where a setting is wanted, and on what it is chosen."""

    loaded: LoadedModel
    prompts: Sequence[TimedPrompt]
    """For tuning, each with its limit."""
    source: str
    """What they are called."""
    costs: CostTable
    exit_layers: tuple[int, ...]
    exactness: str = "token"
    alpha: float | None = None
    """Strength of annealing; None: by likelihood on the tuning prompts."""
    vocabulary: DraftVocabulary | None = None
    """What exits read; None is all tokens."""
    traces: Sequence[PromptTrace] | None = None
    """What every exit drafts on the prompts; None: it is recorded."""
    is_compiled: bool = False
    """Whether layers run on captured segments."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """One setting after the race."""

    name: str
    tokens_per_second: float
    over_plain: float
    """Over plain decoding on the same prompts in the same rounds"""
    num_runs: int
    """Prompts that it decoded; the fewer, the earlier it left"""


@dataclass(frozen=True, slots=True)
class StaticChoice:
    """What the race found."""

    alpha: float
    ranking: tuple[Ranked, ...]
    """Fastest first, plain decoding among them"""
    num_settings: int
    """All that replay compared"""
    num_prompts: int
    source: str
    contention: float
    """How far the machine slowed down in between, 0.1 is 10 %"""
    day: str
    """When the race was held, YYYY-MM-DD"""
    exit_layers: tuple[int, ...]

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "StaticChoice":
        """What `asdict` made of one, also through JSON."""
        ranking = tuple(Ranked(**each) for each in values["ranking"])
        return StaticChoice(**{**values, "ranking": ranking, "exit_layers": tuple(values["exit_layers"])})

    def action(self, is_annealed: bool = False) -> Action:
        """The fastest setting; is_annealed: of those that test a confidence (at least one does)."""
        actions = {action.name: action for action in static_grid(self.exit_layers)}
        found = [actions[each.name] for each in self.ranking]
        return next(action for action in found if action.score == "annealed" or not is_annealed)

    def policy(self, vocabulary: DraftVocabulary | None = None, is_annealed: bool = False) -> Policy:
        """The fastest setting at every step."""
        policy = static_policy(self.action(is_annealed), self.alpha)
        return policy if vocabulary is None else DraftingFrom(vocabulary, policy)

    def describe(self) -> str:
        """The setting, and how it came out, in one line."""
        return (
            f"{both(self.action().name)}, the fastest of {len(self.ranking) - 1} raced on {self.num_prompts} prompts "
            f"of {self.source} on {self.day}, the best of {self.num_settings} by replay; "
            f"{finalists(self.ranking, self.contention)}"
        )


def finalists(ranking: Sequence[Ranked], contention: float) -> str:
    """The speeds of the fastest and of plain decoding, with a warning where the machine was busy."""
    shown = [*ranking[:NUM_SHOWN], *(each for each in ranking[NUM_SHOWN:] if each.name == PLAIN.name)]
    speeds = "; ".join(f"{in_words(each.name)} {each.tokens_per_second:.1f} ({each.over_plain:.2f}x)" for each in shown)
    busy = f"; the machine was busy, {contention:.0%}" if contention > 0.1 else ""
    return f"tokens/s (over plain): {speeds}{busy}"


def choose_static(search: StaticSearch, say: Say) -> StaticChoice:
    """The setting that was kept, else the one that a race finds now, which is kept."""
    path = kept_path(search)
    kept = _read_kept(path)
    if kept is not None:
        say(f"{search.loaded.compression}: best static setting raced here on {kept.day}, kept in {path}")
        return kept
    choice = race(search, say)
    _keep(path, choice)
    return choice


def race(search: StaticSearch, say: Say) -> StaticChoice:
    """Ranks the static grid by replay and races the best of it against each other and plain decoding."""
    level, adapter = search.loaded.compression, new_adapter(search.loaded)
    traces = search.traces
    if traces is None:
        say(f"{level}: recording {len(search.prompts)} tuning prompts")
        traces = record_exits(adapter, search)
    prompts = [
        replace(prompt, max_new_tokens=min(prompt.max_new_tokens, trace.num_positions))
        for prompt, trace in zip(search.prompts, traces, strict=True)
    ]
    alpha = fit_alpha(traces, adapter.num_layers) if search.alpha is None else search.alpha
    grid = static_grid(search.exit_layers)
    with working(f"replaying {len(grid)} fixed settings"):
        entrants = _fastest_by_replay(grid, traces, search.costs, adapter.num_layers, alpha)
    decoder = SpecBoundDecoder(
        greedy_twin(search.loaded.model),
        None,
        level,
        record_steps=False,
        exactness=search.exactness,
        compile=search.is_compiled,
        exits=search.loaded.exits,
    )
    policies: dict[str, Policy] = {action.name: static_policy(action, alpha) for action in entrants}
    if search.vocabulary is not None:
        policies = {name: DraftingFrom(search.vocabulary, policy) for name, policy in policies.items()}
    methods = [policy_method(name, decoder, policy) for name, policy in policies.items()]
    plain = policy_method(PLAIN.name, decoder, StaticPolicy(()))
    probe = ContentionProbe()

    def on_round(num_methods: int, num_prompts: int) -> None:
        say(f"{level}: {num_methods} static settings race on {num_prompts} tuning prompts")

    standings = successive_halving(methods, plain, prompts, probe, on_round)
    return StaticChoice(
        alpha=alpha,
        ranking=tuple(map(ranked, standings)),
        num_settings=len(grid),
        num_prompts=len(prompts),
        source=search.source,
        contention=probe.slowdown,
        day=time.strftime("%Y-%m-%d"),
        exit_layers=search.exit_layers,
    )


def record_exits(adapter: ModelAdapter, search: StaticSearch) -> list[PromptTrace]:
    """What every exit drafts on the tuning prompts."""
    first = search.prompts[0]
    settings = RecordSettings(
        tuple(sorted(search.exit_layers)),
        max(prompt.max_new_tokens for prompt in search.prompts),
        sampling=first.sampling,
        rollouts=RolloutSettings(ROLLOUT_RATE, ROLLOUT_WIDTH, 0),
        draft_vocabulary=search.vocabulary,
    )
    recorder = Recorder(adapter, settings, search.exactness)
    traces = []
    with working("recording what every exit drafts", len(search.prompts)) as work:
        for index, prompt in enumerate(search.prompts):
            traces.append(recorder.record(prompt.input_ids, index))
            work.advance()
    return traces


def _fastest_by_replay(
    grid: Sequence[Action], traces: Sequence[PromptTrace], costs: CostTable, num_layers: int, alpha: float
) -> list[Action]:
    """The settings that race, plain decoding left out; one that tests a confidence is among them."""
    scores = {"annealed": AnnealedConfidence(alpha)}
    seconds = static_seconds(traces, costs, [action.decision(scores) for action in grid], num_layers)
    by_seconds = [grid[i] for i in np.argsort(seconds, kind="stable").tolist() if grid[i] != PLAIN]
    raced = by_seconds[:NUM_RACED]
    if not any(action.score == "annealed" for action in raced):
        raced[-1] = next(action for action in by_seconds if action.score == "annealed")
    return raced


def ranked(standing: Standing) -> Ranked:
    """A standing as it is kept."""
    return Ranked(standing.name, standing.tokens_per_second, standing.over_reference, standing.num_runs)


def kept_path(search: StaticSearch) -> Path:
    """Where this user's setting for a machine, a model, a way to run it and tuning prompts is kept."""
    prompts = [
        (prompt.input_ids.tolist(), prompt.max_new_tokens, sorted(prompt.sampling.items(), key=str))
        for prompt in search.prompts
    ]
    parts = {
        "machine": machine_fingerprint(search.loaded.model.device),
        "model": exact_part(model_fingerprint(search.loaded.model)),
        "level": search.loaded.compression,
        "exactness": search.exactness,
        "exits": search.exit_layers,
        "alpha": search.alpha,
        "vocabulary": None if search.vocabulary is None else search.vocabulary.checksum,
        "compiled": search.is_compiled,
        "prompts": prompts,
    }
    name = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
    return Path("~/.cache/specbound").expanduser() / f"static-{name}.json"


def _read_kept(path: Path) -> StaticChoice | None:
    """None where nothing is kept, or it is damaged or of another version."""
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("schema") != SCHEMA:
            return None
        choice = StaticChoice.from_dict(values)
        choice.action(is_annealed=True)
        return choice
    except (OSError, ValueError, TypeError, KeyError, AttributeError, StopIteration):
        return None


def _keep(path: Path, choice: StaticChoice) -> None:
    content: Mapping[str, Any] = {"schema": SCHEMA, **asdict(choice)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(content, indent=1).encode())
    except OSError as error:
        logger.warning("the best static setting cannot be kept in %s: %s", path, error.strerror)
