"""Chooses the constants of every baseline on the prompts of a log, each with at most as many tries as best static."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from specbound_controller.actions import static_grid
from specbound_controller.baselines.fixed import LayerSkipSettings, StaticSettings
from specbound_controller.baselines.logistic import LogisticSettings
from specbound_controller.baselines.situation import Settings, Situation
from specbound_controller.baselines.speckv import SpecKVSettings
from specbound_controller.baselines.tuned import Tuned, TunedFile, TunedLevel
from specbound_controller.costs import CostTable
from specbound_controller.errors import InputError
from specbound_controller.policy import AnnealedConfidence
from specbound_profiling.log.store import StepLog
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.replay.annealing import fit_alpha
from specbound_profiling.replay.batch import replay_batch
from specbound_profiling.replay.best_static import static_seconds
from specbound_profiling.replay.trace_batch import TraceBatch
from specbound_train.data import check_enough
from specbound_train.tuning.candidates import (
    DRAFT_LENGTHS,
    LOGISTIC_WIDTHS,
    draft_verify_candidates,
    gammatune_candidates,
    heuristic_candidates,
    svip_candidates,
    ucb_candidates,
)
from specbound_train.tuning.fit import logistic_weights, speckv_settings

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
    by_level = {}
    for compression in manifest.compressions:
        traces = log.traces(compression)
        check_enough(traces, compression, str(log.root))
        by_level[compression] = [trace for trace in traces if trace.num_positions > 1]
    levels = tune_levels(by_level, costs, manifest.num_layers, seed, say)
    return TunedFile(
        model_fingerprint=manifest.model_fingerprint,
        num_layers=manifest.num_layers,
        exit_layers=tuple(manifest.exit_layers),
        prompts_hash=manifest.prompts_hash,
        num_prompts=manifest.num_prompts,
        budget=len(static_grid(manifest.exit_layers)),
        levels=levels,
    )


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
        self.batch, self.situation, self.predictors, self.say = batch, situation, predictors, say
        self.num_tokens = sum(trace.num_positions - 1 for trace in batch.traces)
        self.alpha = fit_alpha(batch.traces, situation.num_layers)
        self.exit_layers = [layer for layer in batch.exit_layers if layer > 0]
        self.actions = static_grid(batch.exit_layers)
        self.found: dict[str, Tuned] = {}
        self._speeds: dict[str, float] = {}

    def level(self) -> TunedLevel:
        """All policies, tuned."""
        plain = self._static()
        likely = self._likely_exits()
        for name, candidates in (
            ("draft_verify", draft_verify_candidates(likely)),
            ("gammatune", gammatune_candidates(likely)),
            ("hf_heuristic", heuristic_candidates(likely)),
            ("speckv", self._speckv(likely, is_causal=False)),
            ("speckv_causal", self._speckv(likely, is_causal=True)),
            ("ucb", ucb_candidates(self.actions, (self.static_speeds / plain).tolist(), self.alpha)),
        ):
            self.say(f"{self.situation.compression}: {name}")
            self._choose(name, candidates)
        self.say(f"{self.situation.compression}: logistic")
        self._logistic(likely, plain)
        return TunedLevel(self.alpha, plain, self.situation.costs.exactness, self.found)

    def _static(self) -> float:
        """The policies that decide the same at every step, all candidates at once; plain decoding's speed."""
        self.say(f"{self.situation.compression}: static actions, layerskip, svip")
        scores = {"annealed": AnnealedConfidence(self.alpha)}
        svip = svip_candidates(self.exit_layers)
        decisions = [action.decision(scores) for action in self.actions]
        decisions += [settings.policy(self.situation).decisions[0] for settings in svip]
        costs, num_layers = self.situation.costs, self.situation.num_layers
        speeds = self.num_tokens / static_seconds(self.batch, costs, decisions, num_layers)
        self.static_speeds, svip_speeds = speeds[: len(self.actions)], speeds[len(self.actions) :]
        statics = [StaticSettings(action, self.alpha) for action in self.actions]
        pairs = list(zip(statics, self.static_speeds.tolist(), strict=True))
        fixed = [pair for pair in pairs if pair[0].action.score == "fixed" and pair[0].action.width]
        self._keep("best_static", pairs)
        self._keep("best_static_annealed", [pair for pair in pairs if pair[0].action.score == "annealed"])
        self._keep("layerskip", [(LayerSkipSettings(s.action.exit_layer, s.action.width), speed) for s, speed in fixed])
        self._keep("svip", list(zip(svip, svip_speeds.tolist(), strict=True)))
        self.svip = list(zip(svip, svip_speeds.tolist(), strict=True))
        return float(self.static_speeds[[action.width for action in self.actions].index(0)])

    def _likely_exits(self) -> list[int]:
        """Exit layers of the fastest static policies, with a test or without."""
        best = dict.fromkeys(self.exit_layers, 0.0)
        played = [(action.exit_layer, speed) for action, speed in zip(self.actions, self.static_speeds, strict=True)]
        for layer, speed in [*played, *((settings.exit_layer, speed) for settings, speed in self.svip)]:
            if layer in best:
                best[layer] = max(best[layer], speed)
        return sorted(sorted(best, key=lambda layer: -best[layer])[:NUM_EXITS])

    def _speckv(self, exit_layers: Sequence[int], is_causal: bool) -> Iterable[SpecKVSettings]:
        for exit_layer in exit_layers:
            for lengths in DRAFT_LENGTHS:
                yield replace(self.predictors.get(exit_layer, is_causal), lengths=lengths)

    def _logistic(self, exit_layers: Sequence[int], plain: float) -> None:
        """Every exit layer and width at the price of time that follows from its own speed (Dinkelbach's iteration)."""
        context_length = int(self.batch.context_length.mean())
        start, tried = self.found["best_static"].tokens_per_second / plain, []
        for exit_layer in exit_layers:
            weights = logistic_weights(self.batch, exit_layer, max(LOGISTIC_WIDTHS))
            for width in LOGISTIC_WIDTHS:
                speedup = start
                for _ in range(NUM_RHO_ROUNDS):
                    settings = LogisticSettings(exit_layer, weights[:width], speedup, context_length)
                    tried.append((settings, self._speed(settings)))
                    speedup = tried[-1][1] / plain
        self._keep("logistic", tried)

    def _choose(self, name: str, candidates: Iterable[Settings]) -> None:
        self._keep(name, [(settings, self._speed(settings)) for settings in candidates])

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
