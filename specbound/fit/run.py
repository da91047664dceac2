"""The stages of `specbound fit`, one after the other in one folder. Each is the one that its own command runs."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.greedy_twin import greedy_twin
from specbound.decoding.stats import DecodeStats
from specbound.evaluation.best_static import StaticSearch, race
from specbound.evaluation.best_tree import choose_tree
from specbound.evaluation.level import Protocol, evaluate_level, timed_prompts
from specbound.evaluation.timing import ContentionProbe, TimedPrompt, policy_method
from specbound.evaluation.tournament import successive_halving
from specbound.exits.trained import with_exits
from specbound.fit.answer import Answer, Measured, answer, measured_of
from specbound.fit.budget import OVERDRAFT, RACED_TOKENS, Plan, Sizes, choose_sizes, probe_speed
from specbound.fit.card import folder_card
from specbound.fit.config import FitConfig
from specbound.fit.entrants import finalists, raced
from specbound.fit.notebook import Notebook
from specbound.fit.prompts import file_of, open_pools, write_parts
from specbound.fitted import Fitted, named
from specbound.models.fingerprint import model_fingerprint
from specbound.models.loading import LoadedModel, load_model
from specbound.models.names import FITTED_FOLDER
from specbound.pricing.local import measured_once
from specbound.results.files import make_folder, write_whole
from specbound.results.report import machine_info, model_info
from specbound.results.rows import Row
from specbound.stores.bigrams import has_bigrams
from specbound.stores.trees import TreeSituation, local_situation
from specbound_controller.controller import WEIGHTS_FILE, Controller
from specbound_controller.costs import CostTable
from specbound_controller.errors import InputError
from specbound_controller.policy import Policy, StaticPolicy
from specbound_controller.policy_names import reads_exits
from specbound_controller.settings import in_words
from specbound_profiling.costs.machine import machine_fingerprint
from specbound_profiling.log.manifest import write_costs
from specbound_profiling.log.store import StepLog, open_log
from specbound_profiling.progress import Work, duration, working
from specbound_profiling.prompts.files import load_prompts, spread
from specbound_profiling.recording.config import ProfileConfig, auto_exit_layers
from specbound_profiling.recording.profile import profile
from specbound_profiling.replay.verdict import WORTH_IT
from specbound_train.config import TrainConfig
from specbound_train.data import check_enough
from specbound_train.train import train_controller

PLAIN = "plain"
NUM_PROBED = 3
"""Prompts of the look at the model's speed."""
NUM_ROUNDS = 1
"""Of the measurement: more prompts say more than the same ones again."""
W_MAX = 8
EPOCHS = 12
"""Passes of each fit of the controller; `train-controller` takes more."""
STAGES = ("profile", "race", "train", "final", "measure")
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class FitResult:
    """The answer, and what it stands on."""

    answer: Answer
    model: dict[str, Any]
    rows: list[Row]
    values: dict[str, Any]
    """All that was found, by stage."""
    seconds: float


def fit(config: FitConfig, say: Say) -> FitResult:
    """Runs every stage that has not ended yet. `say` gets a line as something is found.

    Raises InputError for bad input, before any work where it can be told.
    """
    started = time.perf_counter()
    pools = open_pools(config)
    loaded = with_exits(load_model(config.model, config.compression), config.exits)
    folder = make_folder(config.out)
    notes = Notebook(folder, config, model_fingerprint(loaded.model), loaded.exits_name)
    run = _Run(config, loaded, folder, notes, say)
    with working("fit") as work:
        run.work = work
        if notes.get("prompts") is None:
            run.look(pools.chosen_on)
            write_parts(pools, run.sizes, folder)
            notes.once("prompts", lambda: pools.words)
        plan = Plan({name: run.sizes.estimates[name] for name in STAGES})
        work.left_s = lambda: plan.left_s(run.seconds_in_stage)
        for number, stage in enumerate(STAGES, 1):
            work.label = f"stage {number} of {len(STAGES)}, {stage}"
            run.stage_started = time.perf_counter()
            getattr(run, stage)()
            plan.end(stage, run.seconds_in_stage)
    return run.finished(time.perf_counter() - started)


class _Run:
    """One run: where it is, and what its stages hand to each other."""

    def __init__(self, config: FitConfig, loaded: LoadedModel, folder: Path, notes: Notebook, say: Say) -> None:
        self.config, self.loaded, self.folder, self.notes, self.say = config, loaded, folder, notes, say
        self.exactness = config.exactness_used
        self.work: Work
        self.stage_started = time.perf_counter()

    @property
    def seconds_in_stage(self) -> float:
        return time.perf_counter() - self.stage_started

    @property
    def level(self) -> str:
        return self.loaded.compression

    @property
    def num_layers(self) -> int:
        return int(self.loaded.model.config.num_hidden_layers)

    @property
    def exit_layers(self) -> tuple[int, ...]:
        return auto_exit_layers(self.num_layers, self.loaded.trained_layers)

    @property
    def sizes(self) -> Sizes:
        return Sizes(**{"max_new_tokens": self.config.max_new_tokens, **self.notes.get("sizes")})

    @cached_property
    def log(self) -> StepLog:
        return open_log(self.folder / "log")

    @property
    def costs(self) -> CostTable:
        return self.log.costs[self.level]

    @cached_property
    def trees(self) -> TreeSituation:
        with working("the model's bigrams, once for this model"):
            return local_situation(self.loaded.model, self.costs, _quietly)

    @cached_property
    def controller(self) -> Controller | None:
        """What was trained, where it chooses step by step."""
        if not (self.folder / FITTED_FOLDER / WEIGHTS_FILE).exists():
            return None
        found = Controller.load(self.folder / FITTED_FOLDER)
        return None if self.level in found.config.static_actions else found

    @cached_property
    def decoder(self) -> SpecBoundDecoder:
        twin = greedy_twin(self.loaded.model)
        exits, exactness = self.loaded.exits, self.exactness
        return SpecBoundDecoder(twin, None, self.level, record_steps=False, exactness=exactness, exits=exits)

    def look(self, pool: Sequence[Any]) -> None:
        """How fast the model is, and so how much of everything fits into the time."""
        prompts = [conversation[0] for conversation in pool[:: max(1, len(pool) // NUM_PROBED)]][:NUM_PROBED]
        timed = timed_prompts(
            prompts, self.loaded, self.config.max_new_tokens, is_raw=self.config.raw, exactness=self.exactness
        )
        speed = probe_speed(self.loaded, timed, self.exactness)
        self.notes.once("speed", lambda: asdict(speed))
        sizes = choose_sizes(speed, self.config.minutes, self.config.max_new_tokens, has_bigrams(self.loaded.model))
        self.notes.once("sizes", lambda: asdict(sizes))
        self.say(
            f"plain decoding makes {1 / speed.per_token_s:.0f} tokens/s; {sizes.profile} prompts to profile, "
            f"{sizes.measure} others to measure: about {duration(sizes.seconds)}"
        )
        if sizes.max_new_tokens < self.config.max_new_tokens:
            self.say(f"of each prompt {sizes.max_new_tokens} tokens: more do not fit into the time")
        if sizes.seconds > 60 * self.config.minutes * (1.0 + OVERDRAFT):
            self.say(
                f"that is more than --minutes {self.config.minutes:g}, and it goes on all the same: less would say "
                "nothing. Ctrl-C ends it; the same command goes on later"
            )

    def profile(self) -> None:
        """A log with its cost table."""

        def stage() -> dict[str, Any]:
            summary = profile(
                ProfileConfig(
                    out=str(self.folder / "log"),
                    model=self.config.model,
                    exits=self.config.exits,
                    prompts=str(self.folder / file_of("profile")),
                    raw=self.config.raw,
                    compression=(self.level,),
                    exactness=self.exactness,
                    max_new_tokens=self.sizes.max_new_tokens,
                    seed=self.config.seed,
                ),
                measured_once,
            )
            found = summary.verdicts[0]
            return {"agreement": found.agreement, "oracle": found.oracle.value, "conclusion": found.conclusion}

        found = self.notes.once("profile", stage)
        write_costs(self.folder, {self.level: self.costs})
        exits = [100 * agreed for layer, agreed in found["agreement"].items() if int(layer) > 0]
        words = f"exits agree {min(exits):.0f} to {max(exits):.0f} %" if exits else "no exits"
        self._found(f"{words}; the limit of any choice is {found['oracle'] or 1.0:.2f}x")

    def race(self) -> None:
        """The best fixed setting and the best tree, each by the clock."""

        def stage() -> dict[str, Any]:
            search = self._search()
            static = race(search, _quietly)
            tree = choose_tree(search, self.trees, _quietly)
            return {"static": asdict(static), "tree": asdict(tree)}

        found = self.notes.once("race", stage)
        leaders = raced(found)
        best = max(leaders, key=lambda name: leaders[name])
        self._found(f"{in_words(best)}: {leaders[best]:.2f}x in the race")

    def _search(self) -> StaticSearch:
        """Some of the profiled prompts, short, with what was recorded of them."""
        prompts = load_prompts(str(self.folder / file_of("profile")))
        chosen = spread([prompt.task for prompt in prompts], self.sizes.race)
        traces = self.log.traces(self.level)
        limit = min(RACED_TOKENS, self.sizes.max_new_tokens)
        timed = self._timed("profile")
        return StaticSearch(
            self.loaded,
            [replace(timed[i], max_new_tokens=limit) for i in chosen],
            "the profiled prompts",
            self.costs,
            self.exit_layers,
            self.exactness,
            traces=[traces[i] for i in chosen],
        )

    def _timed(self, part: str) -> list[TimedPrompt]:
        prompts = load_prompts(str(self.folder / file_of(part)))
        return timed_prompts(
            prompts, self.loaded, self.sizes.max_new_tokens, is_raw=self.config.raw, exactness=self.exactness
        )

    def train(self) -> None:
        """A controller, where choosing could bring anything."""

        def stage() -> dict[str, Any]:
            oracle = self.notes.get("profile")["oracle"]
            if oracle is None or oracle < WORTH_IT:
                return {"is_trained": False, "why": "even the best choice would bring next to nothing"}
            traces = self.log.traces(self.level)
            try:
                check_enough(traces, self.level, "of this run")
            except InputError as error:
                return {"is_trained": False, "why": str(error)}
            out = self.folder / FITTED_FOLDER
            if not (out / WEIGHTS_FILE).exists():
                train_controller(
                    TrainConfig(
                        log=str(self.folder / "log"),
                        out=str(out),
                        seed=self.config.seed,
                        report=False,
                        epochs=EPOCHS,
                        max_rounds=2,
                    )
                )
            return {"is_trained": True, "why": ""}

        found = self.notes.once("train", stage)
        if not found["is_trained"]:
            self._found(f"no controller: {found['why']}")
        elif self.controller is None:
            self._found("a controller found nothing faster than a fixed setting")
        else:
            self._found("a controller is trained")

    def final(self) -> None:
        """The winners against each other and plain decoding, on prompts that they have not seen."""

        def stage() -> dict[str, float]:
            policies = self._finalists()
            if not policies:
                return {PLAIN: 1.0}
            prompts = self._timed("final")
            methods = [policy_method(name, self.decoder, policy) for name, policy in policies.items()]
            plain = policy_method(PLAIN, self.decoder, StaticPolicy(()))
            standings = successive_halving(methods, plain, prompts, ContentionProbe())
            return {standing.name: standing.over_reference for standing in standings}

        found = self.notes.once("final", stage)
        winner = next(iter(found))
        self._found(f"{in_words(winner)} wins the last race" + (f", {found[winner]:.2f}x" if winner != PLAIN else ""))

    def _finalists(self) -> dict[str, Policy]:
        names = finalists(raced(self.notes.get("race")), self.loaded.exits is not None)
        if self.controller is not None:
            names.append("controller")
        return {name: self._policy(name) for name in names}

    def _policy(self, name: str) -> Policy:
        return named(name, self.loaded.model, self.level, self.costs, self.controller)

    def measure(self) -> None:
        """The winner beside plain decoding and transformers' generate, on prompts that nothing was chosen on."""
        name = next(iter(self.notes.get("final")))
        self.notes.once("measure", lambda: None if name == PLAIN else asdict(self._measured(name)))

    def _measured(self, name: str) -> Measured:
        protocol = Protocol(NUM_ROUNDS, W_MAX, self.config.seed, allow_noise=True, exactness=self.exactness)
        level = evaluate_level(
            self.loaded,
            self._timed("measure"),
            {name: self._policy(name)},
            self.costs,
            self.exit_layers,
            protocol,
            _quietly,
        )
        totals = {row.method: row for row in level.rows if row.task == "all" and row.exactness == self.exactness}
        own = totals[name]
        stats = [timing.stats for timing in level.evaluation.timings[name] if timing.stats is not None]
        return Measured(
            policy=name,
            speedup=own.speedup if not math.isnan(own.speedup) else 0.0,
            low=None if math.isnan(own.speedup_low) else own.speedup_low,
            high=None if math.isnan(own.speedup_high) else own.speedup_high,
            tokens_per_second=own.tokens_per_second,
            plain_tokens_per_second=totals[PLAIN].tokens_per_second,
            reference=level.evaluation.reference,
            outputs_equal=bool(own.outputs_equal),
            num_near_ties=own.num_near_ties,
            num_prompts=own.num_prompts,
            num_tokens=own.num_tokens,
            accepted_by_source=sum(stats, DecodeStats()).accepted_by_source,
            slowdown=level.probe.slowdown,
        )

    def _found(self, line: str) -> None:
        """One more thing is known: it stands in the display from now on, and on a line of its own."""
        self.work.note = f"so far: {line}"
        self.say(line)

    def finished(self, seconds: float) -> FitResult:
        """Writes the answer, and what a decoder reads."""
        notes, config = self.notes, self.config
        measured = measured_of(notes.get("measure"))
        machine = notes.once("machine", lambda: machine_fingerprint(self.loaded.model.device))
        agreement = {int(layer): agreed for layer, agreed in notes.get("profile")["agreement"].items()}
        is_trained = self.loaded.exits is not None
        result = answer(config.model, self.level, machine, measured, notes.get("final"), agreement, is_trained)
        fitted = Fitted(
            result.policy,
            self.level,
            self.exactness,
            model_fingerprint(self.loaded.model),
            self.num_layers,
            " ".join(result.sentences),
            self.loaded.exits_name if reads_exits(result.policy) else "",
        )
        write_whole(self.folder / "README.md", folder_card(config, result, notes.values).encode("utf-8"))
        fitted.write(self.folder)
        model = model_info(config.model, self.loaded.model)
        return FitResult(result, model, self._rows(measured), {**notes.values, "machine": machine_info()}, seconds)

    def _rows(self, measured: Measured | None) -> list[Row]:
        if measured is None:
            return []
        counts = {"num_prompts": measured.num_prompts, "num_tokens": measured.num_tokens}
        shared: dict[str, Any] = {"compression": self.level, "task": "all", "exactness": self.exactness, **counts}
        low, high = (math.nan if value is None else value for value in (measured.low, measured.high))
        return [
            Row(method=PLAIN, tokens_per_second=measured.plain_tokens_per_second, **shared),
            Row(
                method=measured.policy,
                tokens_per_second=measured.tokens_per_second,
                speedup=measured.speedup,
                speedup_low=low,
                speedup_high=high,
                outputs_equal=measured.outputs_equal,
                num_near_ties=measured.num_near_ties,
                **shared,
            ),
        ]


def _quietly(line: str) -> None:
    """The display says what goes on."""
