"""Every compression level measured, one after the other: what `specbound evaluate` does.

Knows no command line. A level's results are handed over as soon as they stand, so that a later failure takes nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from specbound.evaluation.best_static import StaticSearch, choose_static
from specbound.evaluation.best_tree import choose_tree
from specbound.evaluation.config import EvaluateConfig
from specbound.evaluation.level import LevelEvaluation, Protocol, Say, evaluate_level, timed_prompts
from specbound.evaluation.policies import Sources
from specbound.evaluation.rows import EvaluatedRow
from specbound.exits.trained import with_exits
from specbound.models.controllers import load_controller
from specbound.models.loading import LoadedModel, load_model, require_compression
from specbound.pricing.local import choose_costs, given_costs, required_costs
from specbound.results.report import build_report, model_info
from specbound.stores.trees import local_situation
from specbound_controller.actions import WIDTHS, static_grid
from specbound_controller.controller import Controller
from specbound_controller.costs import CostTable
from specbound_controller.figures import share
from specbound_controller.policy import AnnealedConfidence
from specbound_controller.records import Decision
from specbound_controller.trees.names import BEST_TREE
from specbound_profiling.prompts.files import Prompt, load_prompts, prompts_hash
from specbound_profiling.recording.config import auto_exit_layers


@dataclass(slots=True)
class EvaluationResult:
    """All levels that were measured."""

    model: dict[str, Any] = field(default_factory=dict)
    """What a report says of the model."""
    levels: list[LevelEvaluation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What holds for all levels. One line each"""

    @property
    def rows(self) -> list[EvaluatedRow]:
        return [row for level in self.levels for row in level.rows]

    @property
    def is_trustworthy(self) -> bool:
        """Every promise of every level was kept, on a quiet machine unless noise is allowed."""
        return all(level.is_trustworthy for level in self.levels)


def level_notes(level: LevelEvaluation) -> list[str]:
    """All that has to be said beside a level's tables. One line each"""
    return [*level.notes, *level.conditions()]


def to_report(result: EvaluationResult) -> dict[str, Any]:
    """The report of the running command, for machines."""
    levels = [
        {
            "compression": level.evaluation.compression,
            "exactness": level.evaluation.exactness,
            "sampling": {k: v for k, v in level.evaluation.prompts[0].sampling.items() if k != "seed"},
            "reference": level.evaluation.reference,
            "is_trustworthy": level.is_trustworthy,
            "contention": level.probe.slowdown,
            "num_loops_cut": level.num_loops_cut,
            "notes": level_notes(level),
        }
        for level in result.levels
    ]
    comparisons = [each.to_dict() for level in result.levels for each in level.comparisons]
    return build_report(result.rows, result.model, comparisons=comparisons, levels=levels, notes=result.notes)


def evaluate(
    config: EvaluateConfig,
    say: Say = lambda line: None,
    on_level: Callable[[EvaluationResult], None] = lambda result: None,
) -> EvaluationResult:
    """Measures all levels. `say` gets a line as each part begins, `on_level` the results so far after each level.

    Raises:
        InputError: bad input; what can be checked is, before the first level.
    """
    for compression in config.compression:
        require_compression(compression)
    controller = load_controller(config.controller_name)
    sources = Sources.open(config, controller)
    prompts = load_prompts(config.prompts, config.num_prompts)
    result = EvaluationResult(notes=prompt_notes(config, prompts, sources.prompt_hashes()))
    for compression in config.compression:
        loaded = with_exits(load_model(config.model, compression), config.exits)
        if not result.model:
            result.model.update(model_info(config.model, loaded.model))
        sources.check_model(result.model["fingerprint"], result.model["num_layers"])
        if sources.tuned is not None:
            sources.tuned.check_exits(loaded.exits_name)
        result.levels.append(_level(config, loaded, prompts, sources, say))
        on_level(result)
        del loaded
    return result


def _level(
    config: EvaluateConfig, loaded: LoadedModel, prompts: list[Prompt], sources: Sources, say: Say
) -> LevelEvaluation:
    exactness, controller = config.exactness_of(loaded.compression), sources.controller
    exit_layers = auto_exit_layers(loaded.model.config.num_hidden_layers, loaded.trained_layers)
    if controller is not None:
        exit_layers = controller.config.exit_layers
    costs, costs_used = _costs(config, loaded, controller, exit_layers, exactness)
    sampling = config.generate_arguments()
    static = trees = best_tree = search = None
    if sources.needs_race or BEST_TREE in sources.asked:
        search = _search(config, loaded, controller, exit_layers, costs)
    if search is not None and sources.needs_race:
        static = choose_static(search, say)
    if sources.needs_trees(loaded.compression):
        trees = local_situation(loaded.model, costs, say)
    if search is not None and trees is not None and BEST_TREE in sources.asked:
        best_tree = choose_tree(search, trees, say)
    sources = replace(sources, num_layers=loaded.model.config.num_hidden_layers)
    choice = sources.choose(loaded.compression, costs, static, trees, best_tree)
    alpha = 0.0 if static is None else static.alpha
    if controller is not None:
        alpha = controller.config.alpha
    timed = timed_prompts(prompts, loaded, config.max_new_tokens, sampling, config.raw, exactness)
    protocol = Protocol(
        num_rounds=config.rounds,
        w_max=config.w_max,
        seed=config.seed,
        allow_noise=config.allow_noise,
        exactness=exactness,
        sampling=sampling,
        grid=_grid(exit_layers, alpha, config.w_max),
        num_decision_prompts=config.decision_prompts,
        until=config.until,
    )
    level = evaluate_level(loaded, timed, choice.policies, costs, exit_layers, protocol, say)
    error = f"; {share(costs.held_out_error)} off on steps held out"
    level.notes.extend([costs_used + error, *choice.notes])
    return level


def _search(
    config: EvaluateConfig,
    loaded: LoadedModel,
    controller: Controller | None,
    exit_layers: tuple[int, ...],
    costs: CostTable,
) -> StaticSearch:
    """On what the best fixed settings of a level are chosen: the tuning prompts."""
    exactness, sampling = config.exactness_of(loaded.compression), config.generate_arguments()
    prompts = load_prompts(config.tuning_source, config.num_tuning_prompts)
    return StaticSearch(
        loaded,
        timed_prompts(prompts, loaded, config.tuning_tokens, sampling, config.raw, exactness),
        config.tuning_source,
        costs,
        exit_layers,
        exactness,
        None if controller is None else controller.config.alpha,
        None if controller is None else controller.draft_vocabulary,
    )


def _grid(exit_layers: tuple[int, ...], alpha: float, w_max: int) -> tuple[Decision, ...]:
    """What `oracle_grid` chooses from: the settings that a user could choose by hand."""
    widths = [width for width in WIDTHS if width <= w_max]
    scores = {"annealed": AnnealedConfidence(alpha)}
    return tuple(action.decision(scores) for action in static_grid(exit_layers, widths))


def _costs(
    config: EvaluateConfig,
    loaded: LoadedModel,
    controller: Controller | None,
    exit_layers: tuple[int, ...],
    exactness: str,
) -> tuple[CostTable, str]:
    """The cost table of a level, and one line that says which it is."""
    if controller is not None:
        return choose_costs(config.costs, controller, loaded, exactness)
    if config.costs != "auto":
        return given_costs(Path(config.costs).expanduser(), loaded.compression), f"costs: from {config.costs}"
    return required_costs(loaded, exit_layers, exactness)


def prompt_notes(config: EvaluateConfig, prompts: list[Prompt], hashes: Mapping[str, str]) -> list[str]:
    """What the prompts are, with a warning where something was chosen on them. hashes: source -> its prompts' hash."""
    tasks = len({prompt.task for prompt in prompts})
    notes = [f"{len(prompts)} prompts of {tasks} kinds from {config.prompts}, at most {config.max_new_tokens} tokens"]
    whole = prompts if config.num_prompts is None else load_prompts(config.prompts)
    measured = {prompts_hash(prompts), prompts_hash(whole)}
    seen = [source for source, own in hashes.items() if own in measured]
    if seen:
        notes.append(
            f"warning: {' and '.join(seen)} come from these very prompts, so what is chosen there is flattered"
        )
    if config.sample:
        notes.append(f"sampled: temperature {config.temperature:g}, top_k {config.top_k}, top_p {config.top_p:g}")
    return notes
