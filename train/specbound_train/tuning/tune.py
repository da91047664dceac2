"""Chooses the constants of every baseline on the prompts of a log, each with at most as many tries as best static."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from specbound_controller.actions import static_grid
from specbound_controller.baselines.fixed import StaticSettings
from specbound_controller.baselines.logistic import LogisticSettings
from specbound_controller.baselines.situation import Search, Settings, Situation
from specbound_controller.baselines.speckv import SpecKVSettings
from specbound_controller.baselines.tuned import SETTINGS, Tuned, TunedFile, TunedLevel
from specbound_controller.costs import CostTable
from specbound_controller.errors import InputError
from specbound_profiling.log.store import StepLog
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.prompts.spec_bench import refuse_split
from specbound_profiling.replay.annealing import fit_alpha
from specbound_profiling.replay.batch import replay_batch
from specbound_profiling.replay.best_static import static_seconds
from specbound_profiling.replay.trace_batch import TraceBatch
from specbound_train.data import check_enough
from specbound_train.tuning.fit import logistic_weights, speckv_settings
from specbound_train.tuning.trees import tune_trees

DRAFT_LENGTHS = ((1, 2), (1, 2, 3, 4), (2, 4, 6, 8))
"""Lengths that SpecKV may choose from; the last ones are the paper's."""
LOGISTIC_WIDTHS = (2, 4, 8)
NUM_EXITS = 4
"""Exit layers that are tried where every setting takes a replay of its own: those of the fastest static policies."""
NUM_RHO_ROUNDS = 3
"""Replays after which the logistic policy's own speed, by which it prices time, is stable."""

Say = Callable[[str], None]


def tune_log(log: StepLog, costs: Mapping[str, CostTable], seed: int, say: Say) -> TunedFile:
    """Tunes every policy at every compression level; `say` gets a line as each begins.

    costs: by compression level, all of the log's.

    Raises:
        InputError: too few prompts or positions.
    """
    manifest = log.manifest
    refuse_split(manifest.prompts, ("evaluation",), "tuning")
    by_level = {}
    for compression in manifest.compressions:
        traces = log.traces(compression)
        check_enough(traces, compression, str(log.root))
        by_level[compression] = [trace for trace in traces if trace.num_positions > 1]
    levels = tune_levels(by_level, costs, manifest.num_layers, seed, say)
    if manifest.stores:
        sources = log.tree_sources()
        for compression, traces in by_level.items():
            own = partial(_of_level, say, compression)
            trees = tune_trees(traces, sources, costs[compression], manifest.num_layers, own)
            levels[compression] = replace(levels[compression], trees=trees)
    return TunedFile(
        model_fingerprint=manifest.model_fingerprint,
        num_layers=manifest.num_layers,
        exit_layers=tuple(manifest.exit_layers),
        prompts_hash=manifest.prompts_hash,
        num_prompts=manifest.num_prompts,
        budget=len(static_grid(manifest.exit_layers)),
        levels=levels,
        exits=manifest.exits,
    )


def _of_level(say: Say, compression: str, line: str) -> None:
    say(f"{compression}: {line}")


def tune_levels(
    traces: Mapping[str, Sequence[PromptTrace]], costs: Mapping[str, CostTable], num_layers: int, seed: int, say: Say
) -> dict[str, TunedLevel]:
    """The same on traces by compression level, each of more than one position."""
    batches = {compression: TraceBatch(found) for compression, found in traces.items()}
    predictors = _Predictors(tuple(batches.items()), seed)
    return {
        compression: _Search(batch, Situation(num_layers, compression, costs[compression]), predictors, say).level()
        for compression, batch in batches.items()
    }


@dataclass(slots=True)
class _Predictors:
    """SpecKV's predictors, which all levels share, each fitted when it is first asked for."""

    batches: tuple[tuple[str, TraceBatch], ...]
    seed: int
    found: dict[tuple[int, bool], SpecKVSettings] = field(default_factory=dict)

    def get(self, exit_layer: int, is_causal: bool) -> SpecKVSettings:
        key = (exit_layer, is_causal)
        if key not in self.found:
            self.found[key] = speckv_settings(self.batches, exit_layer, is_causal, self.seed)
        return self.found[key]


class _Search:
    """The search at one compression level."""

    def __init__(self, batch: TraceBatch, situation: Situation, predictors: _Predictors, say: Say) -> None:
        self.batch, self.situation, self.predictors = batch, situation, predictors
        self.say = lambda line: say(f"{situation.compression}: {line}")
        self.num_tokens = sum(trace.num_positions - 1 for trace in batch.traces)
        self.alpha = fit_alpha(batch.traces, situation.num_layers)
        self.exit_layers = [layer for layer in batch.exit_layers if layer > 0]
        self.actions = static_grid(batch.exit_layers)
        self.found: dict[str, Tuned] = {}

    def level(self) -> TunedLevel:
        """All policies, tuned: first those that decide the same at every step, at every exit layer, then the others."""
        speeds, likely = self._constant()
        plain = speeds[[action.width for action in self.actions].index(0)]
        search = Search(likely, self.actions, [speed / plain for speed in speeds], self.alpha)
        fitted = {
            "logistic": lambda: self._logistic(likely, plain),
            "speckv": lambda: self._speckv(likely, is_causal=False),
            "speckv_causal": lambda: self._speckv(likely, is_causal=True),
        }
        for name in (name for name in SETTINGS if name not in self.found):
            self.say(name)
            self._keep(name, fitted[name]() if name in fitted else self._tried(SETTINGS[name].candidates(search)))
        return TunedLevel(self.alpha, plain, self.situation.costs.exactness, self.found)

    def _constant(self) -> tuple[list[float], list[int]]:
        """The policies that decide the same at every step, all candidates at once.

        Returns the speeds of the static actions, and the exit layers of the fastest candidates.
        """
        names = [name for name, kind in SETTINGS.items() if kind.is_constant and name != "best_static_annealed"]
        self.say(", ".join(names))
        search = Search(self.exit_layers, self.actions, alpha=self.alpha)
        candidates = [(name, settings) for name in names for settings in SETTINGS[name].candidates(search)]
        decisions = [settings.policy(self.situation).decisions[0] for _, settings in candidates]
        seconds = static_seconds(self.batch, self.situation.costs, decisions, self.situation.num_layers)
        speeds = (self.num_tokens / seconds).tolist()
        tried: dict[str, list[tuple[Settings, float]]] = {}
        for (name, settings), speed in zip(candidates, speeds, strict=True):
            tried.setdefault(name, []).append((settings, speed))
            if isinstance(settings, StaticSettings) and settings.action.score == "annealed":
                tried.setdefault("best_static_annealed", []).append((settings, speed))
        for name in SETTINGS:
            if name in tried:
                self._keep(name, tried[name])
        best = dict.fromkeys(self.exit_layers, 0.0)
        for decision, speed in zip(decisions, speeds, strict=True):
            for layer, _ in decision.exits():
                best[layer] = max(best.get(layer, 0.0), speed)
        likely = sorted(self.exit_layers, key=lambda layer: -best[layer])[:NUM_EXITS]
        return [speed for _, speed in tried["best_static"]], sorted(likely)

    def _speckv(self, exit_layers: Sequence[int], is_causal: bool) -> list[tuple[Settings, float]]:
        predictors = [self.predictors.get(exit_layer, is_causal) for exit_layer in exit_layers]
        return self._tried(replace(each, lengths=lengths) for each in predictors for lengths in DRAFT_LENGTHS)

    def _logistic(self, exit_layers: Sequence[int], plain: float) -> list[tuple[Settings, float]]:
        """Every exit layer and width at the price of time that follows from its own speed (Dinkelbach's iteration)."""
        context_length = int(self.batch.context_length.mean())
        start, tried = self.found["best_static"].tokens_per_second / plain, list[tuple[Settings, float]]()
        for exit_layer in exit_layers:
            weights = logistic_weights(self.batch, exit_layer, max(LOGISTIC_WIDTHS))
            for width in LOGISTIC_WIDTHS:
                speedup = start
                for _ in range(NUM_RHO_ROUNDS):
                    settings = LogisticSettings(exit_layer, weights[:width], speedup, context_length)
                    tried.append((settings, self._speed(settings)))
                    speedup = tried[-1][1] / plain
        return tried

    def _tried(self, candidates: Iterable[Settings]) -> list[tuple[Settings, float]]:
        return [(settings, self._speed(settings)) for settings in candidates]

    def _speed(self, settings: Settings) -> float:
        """Replayed tokens per second."""
        situation = self.situation
        policy = settings.policy(situation)
        return replay_batch(
            self.batch, policy, situation.costs, situation.num_layers, situation.compression
        ).tokens_per_second

    def _keep(self, name: str, tried: Sequence[tuple[Settings, float]]) -> None:
        """The fastest; the first among equals."""
        if len(tried) > len(self.actions):
            raise AssertionError(f"{name} tries {len(tried)} settings, more than best static's {len(self.actions)}")
        if not tried:
            raise InputError(f"log has no exit layer for {name}: profile with --exit-layers")
        settings, speed = max(tried, key=lambda pair: pair[1])
        self.found[name] = Tuned(settings, speed, len(tried))
