"""The side-by-side run on a real model: tune on prompts of their own, time every method interleaved, make rows."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from specbound.bench.compare import Comparison, Group, conditions
from specbound.bench.config import BenchConfig
from specbound.bench.methods import OurMethod, new_decoder
from specbound.bench.result import BenchResult, Say, breakdowns_by_label
from specbound.bench.specbench import Item, Question, items_of, load_questions
from specbound.bench.transformers_methods import TransformersMethod
from specbound.bench.tuning import GRID_KINDS, speedup_map, tune_transformers
from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.model.segments import CALLS_BEFORE_CAPTURE
from specbound.evaluation.best_static import StaticSearch, choose_static, record_exits
from specbound.evaluation.best_tree import choose_tree
from specbound.evaluation.timing import ContentionProbe, TimedPrompt
from specbound.exits.trained import new_adapter, with_exits
from specbound.fitted import named
from specbound.models.controllers import load_controller
from specbound.models.fingerprint import model_fingerprint
from specbound.models.loading import LoadedModel, load_model
from specbound.pricing.local import given_costs, required_costs
from specbound.results.report import model_info
from specbound.stores.trees import local_situation
from specbound_controller.costs import CostTable
from specbound_controller.settings import in_words
from specbound_profiling.recording.config import auto_exit_layers


class Bench:
    """One run."""

    def __init__(self, config: BenchConfig, say: Say) -> None:
        """Raises InputError for what cannot be used, before anything is decoded."""
        self.config, self.say = config, say
        self.controller = load_controller(config.controller_name)
        self.questions = load_questions(config.prompt_source, config.num_prompts)
        self.tuning_questions = load_questions(config.tuning_source, config.num_tuning_prompts)
        self.loaded: LoadedModel = with_exits(load_model(config.model, config.compression, config.device), config.exits)
        self.adapter = new_adapter(self.loaded)
        if self.controller is not None:
            self.controller.check_model(model_fingerprint(self.loaded.model), self.adapter.num_layers)
        self.notes: list[str] = []
        self.speedup_map: tuple[Sequence[int], Sequence[Sequence[float]]] | None = None

    def run(self) -> BenchResult:
        """Everything, in order."""
        config, asked = self.config, self.config.chosen_methods
        plain = OurMethod("plain", self._decoder(config.exactness[0]))
        self.say(f"plain decoding of {len(self.questions)} + {len(self.tuning_questions)} prompts")
        tuning = [item.prompt for item in self._items(self.tuning_questions, plain, config.tuning_tokens)]
        items = self._items(self.questions, plain, config.max_new_tokens)
        groups = {level: self._ours(level, tuning) for level in config.exactness}
        self.say("searching the grids of transformers' methods")
        tuned = tune_transformers([name for name in asked if name in GRID_KINDS], config, self.loaded, tuning)
        self.notes.extend(tuned.notes)
        generate = [TransformersMethod("transformers", self.loaded.model)] if "transformers" in asked else []
        # transformers' methods run on the model's own kernels, so that plain decoding at `token` is theirs to equal
        at_token = groups.pop("token", None) or Group([OurMethod("plain", self._decoder("token"))])
        at_token.theirs = [*generate, *tuned.methods]
        groups = {"token": at_token, **groups}
        num_methods = sum(len(group.methods) for group in groups.values())
        self.say(f"timing {num_methods} methods on {len(items)} prompts, {config.num_rounds} rounds")
        return self._measured(groups, items)

    def _items(self, questions: Sequence[Question], plain: OurMethod, max_new_tokens: int) -> list[Item]:
        sampling = self.config.generate_arguments()
        return items_of(
            questions,
            self.loaded,
            self.adapter,
            lambda prompt: plain.run(prompt)[0],
            max_new_tokens,
            sampling,
            self.config.raw,
        )

    def _ours(self, exactness: str, tuning: Sequence[TimedPrompt]) -> Group:
        """Plain, best static, best tree and controller at one level."""
        controller, asked = self.controller, self.config.chosen_methods
        exits = auto_exit_layers(self.adapter.num_layers) if controller is None else controller.config.exit_layers
        costs = self._costs(exactness, exits)
        decoder = self._decoder(exactness)
        methods = [OurMethod("plain", decoder)]
        search = self._search(exactness, exits, costs, tuning)
        if "best_static" in asked:
            methods.append(self._best_static(decoder, search))
        if "best_tree" in asked:
            methods.append(self._best_tree(decoder, search))
        if controller is not None and "controller" in asked:
            methods.append(OurMethod("controller", decoder, controller.policy(costs, self.loaded.compression)))
        for name in self.config.own_policies:
            policy = named(name, self.loaded.model, self.loaded.compression, costs)
            methods.append(OurMethod(name, decoder, policy, in_words(name)))
        return Group(methods, costs)

    def _search(
        self, exactness: str, exits: Sequence[int], costs: CostTable, tuning: Sequence[TimedPrompt]
    ) -> StaticSearch:
        """What settings at one level are raced on."""
        alpha = None if self.controller is None else self.controller.config.alpha
        source, is_compiled = self.config.tuning_source, self.config.compile
        return StaticSearch(self.loaded, tuning, source, costs, tuple(exits), exactness, alpha, is_compiled=is_compiled)

    def _best_static(self, decoder: SpecBoundDecoder, search: StaticSearch) -> OurMethod:
        """The fastest fixed setting on the tuning prompts."""
        self.say(f"{search.exactness}: recording the tuning prompts")
        traces = record_exits(self.adapter, search)
        found = choose_static(replace(search, traces=traces), self.say)
        self.speedup_map = self.speedup_map or speedup_map(traces, search.costs, self.adapter.num_layers)
        self.notes.append(f"best_static, {search.exactness}: {found.describe()}")
        return OurMethod("best_static", decoder, found.policy(), in_words(found.action().name))

    def _best_tree(self, decoder: SpecBoundDecoder, search: StaticSearch) -> OurMethod:
        """The fastest draft tree on the tuning prompts."""
        situation = local_situation(self.loaded.model, search.costs, self.say)
        found = choose_tree(search, situation, self.say)
        self.notes.append(f"best_tree, {search.exactness}: {found.describe()}")
        return OurMethod("best_tree", decoder, found.policy(situation), in_words(found.name))

    def _decoder(self, exactness: str) -> SpecBoundDecoder:
        return new_decoder(self.loaded, exactness, self.config.compile)

    def _costs(self, exactness: str, exits: Sequence[int]) -> CostTable:
        level = self.loaded.compression
        if self.config.costs != "auto":
            table = given_costs(Path(self.config.costs).expanduser(), level)
            if table.exactness == exactness:
                self.notes.append(f"costs, {exactness}: from {self.config.costs}")
                return table
        self.say(f"{exactness}: costs")
        table, source = required_costs(self.loaded, exits, exactness, is_compiled=self.config.compile)
        self.notes.append(f"{source.split(',')[0]}, {exactness}")
        return table

    def _measured(self, groups: dict[str, Group], items: list[Item]) -> BenchResult:
        config, probe = self.config, ContentionProbe()
        comparison = Comparison(
            self.adapter, self.loaded.compression, config.num_rounds, config.seed, is_sampled=config.sample
        )
        for method in (method for group in groups.values() for method in group.ours if config.compile):
            for item in items:
                for _ in range(CALLS_BEFORE_CAPTURE):  # captures stand outside of the clock
                    method.run(item.prompt)
        levels = comparison.run(groups, [item.prompt for item in items], probe)
        rows = [row for level in levels for row in level.rows()]
        ours = {method.name for group in groups.values() for method in group.ours}
        has_bug = any(not d.is_near_tie and d.method in ours for level in levels for d in level.differences)
        is_quiet = probe.is_shown(config.allow_noise)
        return BenchResult(
            model=model_info(config.model, self.loaded.model),
            rows=rows if is_quiet else [row.without_speedup() for row in rows],
            notes=[*self.notes, *self._settings(items), *conditions(levels, probe, config.allow_noise)],
            is_trustworthy=is_quiet and not has_bug,
            breakdowns=breakdowns_by_label(levels),
            speedup_map=self.speedup_map,
            items=items,
            levels=levels,
            decode=lambda tokens: self.loaded.tokenizer.decode(tokens, skip_special_tokens=True),
        )

    def _settings(self, items: Sequence[Item]) -> list[str]:
        config = self.config
        how = f"sampled at temperature {config.temperature:g}" if config.sample else "greedy"
        notes = [
            f"{how}; tuning on {len(self.tuning_questions)} prompts of {config.tuning_source}, {config.tuning_tokens} "
            f"tokens each; timing on {len(items)} of {config.prompt_source}, {config.num_rounds} rounds, rotated"
        ]
        if config.compile:
            notes.append("our methods run on captured CUDA graphs, transformers' on eager layers")
        if self.adapter.device.type == "cpu":
            notes.append("peak memory is the whole process's, model included")
        num_cut = sum(item.is_loop_cut for item in items)
        if num_cut:
            notes.append(f"{num_cut} of {len(items)} continuations were cut where they began to loop, for all alike")
        return notes


def run_bench(config: BenchConfig, say: Say) -> BenchResult:
    """Times all methods side by side. `say` gets a line as each stage begins."""
    return Bench(config, say).run()
