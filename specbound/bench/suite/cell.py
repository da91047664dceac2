"""One cell: a model at one compression level, decoding in one way. Chooses settings, then measures prompts."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from specbound.bench.suite.config import SuiteConfig
from specbound.bench.suite.store import MeasuredPrompt, Store
from specbound.bench.transformers_methods import Assistance, TransformersMethod
from specbound.bench.tuning import tune_transformers
from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.greedy_twin import greedy_twin
from specbound.evaluation.best_static import StaticChoice, StaticSearch, choose_static
from specbound.evaluation.best_tree import TreeChoice, choose_tree
from specbound.evaluation.level import timed_prompts
from specbound.evaluation.rows import PLAIN_AT_TOKEN
from specbound.evaluation.timing import (
    ContentionProbe,
    Method,
    TimedPrompt,
    find_differences,
    policy_method,
    time_methods,
    transformers_method,
)
from specbound.evaluation.verify import for_prompt
from specbound.exits.trained import new_adapter
from specbound.fitted import named
from specbound.models.loading import LoadedModel
from specbound.pricing.local import choose_costs, required_costs
from specbound.results.rows import PEERS, THEIRS
from specbound.stores.trees import TreeSituation, local_situation
from specbound_controller.controller import Controller
from specbound_controller.costs import CostTable
from specbound_controller.policy import StaticPolicy
from specbound_profiling.prompts.files import Prompt, load_prompts
from specbound_profiling.prompts.tokenization import tokenize_prompts
from specbound_profiling.recording.config import auto_exit_layers
from specbound_profiling.recording.record import Recorder
from specbound_profiling.recording.settings import RecordSettings
from specbound_profiling.replay.oracle import oracle
from specbound_profiling.replay.replay import PLAIN, replay_static

NUM_GRID_PROMPTS = 6
"""Tuning prompts on which their grids are searched."""


@dataclass(frozen=True, slots=True)
class Way:
    """A compression level and a way of choosing tokens."""

    compression: str
    temperature: float

    @property
    def name(self) -> str:
        """Of the cell's folder."""
        return f"{self.compression}-{'sampled' + format(self.temperature, 'g') if self.temperature else 'greedy'}"

    @property
    def exactness(self) -> str:
        """Kernels of plain decoding and all policies."""
        return "token" if self.compression == "none" else "bitwise"

    def sampling(self, seed: int) -> dict[str, Any]:
        """Arguments of the decoder that choose the tokens."""
        if not self.temperature:
            return {"do_sample": False}
        return {"do_sample": True, "temperature": self.temperature, "top_k": 0, "top_p": 1.0, "seed": seed}

    @property
    def without_claim(self) -> set[str]:
        """Methods that promise no output that is plain decoding's: other kernels, or tokens of their own."""
        if self.exactness == "token" and not self.temperature:
            return set()
        return {*THEIRS, PLAIN_AT_TOKEN}


class Cell:
    """Everything that decodes in one way."""

    def __init__(
        self, config: SuiteConfig, way: Way, loaded: LoadedModel, controller: Controller | None, say: Any
    ) -> None:
        self.config, self.way, self.loaded, self.controller, self.say = config, way, loaded, controller, say
        self.adapter = new_adapter(loaded)
        exits = auto_exit_layers(self.adapter.num_layers, loaded.trained_layers)
        self.exits = exits if controller is None else controller.config.exit_layers
        self.sampling = way.sampling(config.seed)

    def set_up(self, store: Store) -> None:
        """Chooses settings on the tuning prompts, or takes those that were chosen before the run was killed."""
        kept = store.setup(self.way.name)
        if kept is None:
            kept = self._chosen()
            store.keep_setup(self.way.name, kept)
        self.costs = CostTable(**kept["costs"])
        self.static = StaticChoice.from_dict(kept["static"])
        self.tree = TreeChoice.from_dict(kept["tree"])
        self.methods = self._methods({name: Assistance(**each) for name, each in kept["theirs"].items()})

    def _chosen(self) -> dict[str, Any]:
        config, way = self.config, self.way
        prompts = load_prompts(config.tuning_source, config.num_tuning_prompts)
        self.say(f"{way.name}: prices and settings, on {len(prompts)} tuning prompts")
        costs, _ = self._costs()
        tuning = timed_prompts(prompts, self.loaded, config.tuning_tokens, self.sampling, config.raw, way.exactness)
        controller = self.controller
        search = StaticSearch(
            self.loaded,
            tuning,
            config.tuning_source,
            costs,
            self.exits,
            way.exactness,
            None if controller is None else controller.config.alpha,
            None if controller is None else controller.draft_vocabulary,
        )
        static = choose_static(search, self.say)
        tree = choose_tree(search, self._situation(costs), self.say)
        self.say(f"{way.name}: searching the grids of transformers' methods")
        tuned = tune_transformers(PEERS, config, self.loaded, tuning[:NUM_GRID_PROMPTS])
        theirs = {each.name: asdict(each.assistance) for each in tuned.methods if each.assistance is not None}
        notes = [f"best static: {static.describe()}", f"best tree: {tree.describe()}", *tuned.notes]
        return {
            "costs": asdict(costs),
            "static": asdict(static),
            "tree": asdict(tree),
            "theirs": theirs,
            "notes": notes,
        }

    def _situation(self, costs: CostTable) -> TreeSituation:
        return local_situation(self.loaded.model, costs, self.say)

    def _costs(self) -> tuple[CostTable, str]:
        if self.controller is not None:
            return choose_costs("auto", self.controller, self.loaded, self.way.exactness)
        return required_costs(self.loaded, self.exits, self.way.exactness)

    def _methods(self, theirs: dict[str, Assistance]) -> list[Method]:
        model, way, controller = self.loaded.model, self.way, self.controller
        twin = greedy_twin(model)
        decoder = SpecBoundDecoder(
            twin, None, way.compression, record_steps=False, exactness=way.exactness, exits=self.loaded.exits
        )
        methods = [transformers_method(model)]
        methods += [Method(name, TransformersMethod(name, model, each).run) for name, each in theirs.items()]
        if way.exactness == "bitwise":
            own = SpecBoundDecoder(twin, None, way.compression, record_steps=False)
            methods.append(policy_method(PLAIN_AT_TOKEN, own, StaticPolicy(())))
        methods.append(policy_method("plain", decoder, StaticPolicy(())))
        vocabulary = None if controller is None else controller.draft_vocabulary
        methods.append(policy_method("best_static", decoder, self.static.policy(vocabulary)))
        methods.append(policy_method("best_tree", decoder, self.tree.policy(self._situation(self.costs))))
        by_name = self.config.policies if controller is None else ("controller", *self.config.policies)
        for name in by_name:
            policy = named(name, model, way.compression, self.costs, controller)
            methods.append(policy_method(name, decoder, policy))
        return methods

    def measure(self, prompts: Sequence[Prompt], first_index: int) -> list[MeasuredPrompt]:
        """One block. first_index: place of its first prompt among all, for the seeds."""
        config, way = self.config, self.way
        all_ids = tokenize_prompts(prompts, self.loaded, self.adapter, config.max_new_tokens, config.raw, way.exactness)
        timed, measured = [], []
        for index, (prompt, ids) in enumerate(zip(prompts, all_ids, strict=True), start=first_index):
            settings = RecordSettings(tuple(sorted(self.exits)), config.max_new_tokens, sampling=self.sampling)
            trace = Recorder(self.adapter, settings, way.exactness).record(ids, index)
            replayed = oracle([trace], self.costs, self.adapter.num_layers, config.w_max)
            plain = replay_static([trace], PLAIN, self.costs, self.adapter.num_layers)
            limit = trace.num_positions
            sampling = for_prompt(dict(self.sampling), index)
            timed.append(TimedPrompt(prompt.prompt_id, prompt.task, ids, limit, sampling))
            seconds = (float(np.sum(replayed.seconds)), float(np.sum(plain.seconds)))
            measured.append(MeasuredPrompt(prompt.prompt_id, prompt.task, limit, trace.is_loop_cut, {}, [], *seconds))
        probe = ContentionProbe()
        timings = time_methods(self.methods, timed, config.rounds, probe)
        promised = {name: each for name, each in timings.items() if name not in way.without_claim}
        differences = find_differences(promised, timed, self.adapter, way.exactness)
        return [
            replace(
                each,
                timings={name: of_method[place] for name, of_method in timings.items()},
                differences=[found for found in differences if found.prompt_id == each.prompt_id],
                probe_s=probe.seconds,
            )
            for place, each in enumerate(measured)
        ]
