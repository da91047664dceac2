"""Measures cost tables, writes them, and checks them against live decoding: what `specbound costs` does."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from specbound.decoding.model.adapter import ModelAdapter
from specbound.exits.trained import with_exits
from specbound.models.controllers import load_controller
from specbound.models.fingerprint import model_fingerprint
from specbound.models.loading import LoadedModel, load_model, require_compression
from specbound.pricing.config import CostsConfig
from specbound.results.report import model_info
from specbound_controller.costs import CostTable
from specbound_controller.errors import InputError
from specbound_controller.fingerprint import same_model
from specbound_controller.policy import Policy
from specbound_profiling.costs.check import KindCheck, check_costs, usual_kinds
from specbound_profiling.costs.measure import TOKENS_PER_PROMPT, CostMeasurement, cost_measurement
from specbound_profiling.log.manifest import read_cost_file, write_cost_file, write_costs
from specbound_profiling.log.store import StepLog, open_log
from specbound_profiling.prompts.files import load_prompts
from specbound_profiling.prompts.tokenization import tokenize_prompts

NUM_PROMPTS = 12
"""Prompts whose steps are timed."""
CHECKED_TOKENS = 48
"""New tokens of each prompt of the check."""
TOLERANCE = 0.10
"""Largest deviation of a kind's live seconds from the predicted ones."""


@dataclass(slots=True)
class Costs:
    """What was measured, by compression level."""

    model: dict[str, Any] = field(default_factory=dict)
    """What a report says of the model."""
    measurements: dict[str, CostMeasurement] = field(default_factory=dict)
    checks: dict[str, list[KindCheck]] = field(default_factory=dict)
    """Empty where no check was asked for."""

    @property
    def is_within(self) -> bool:
        """Whether every kind's live seconds are within the tolerance."""
        return all(abs(kind.ratio - 1.0) <= TOLERANCE for kinds in self.checks.values() for kind in kinds)


def measure_all(config: CostsConfig, say: Callable[[str], None] = lambda line: None) -> Costs:
    """Measures, checks where asked for, and writes each level's table as soon as it stands. `say` gets a line each."""
    for level in config.compression:
        require_compression(level)
    log = None if config.log is None else open_log(config.log)
    kept = _kept(config)
    costs = Costs()
    for level in config.compression:
        loaded = with_exits(load_model(config.model, level), config.exits)
        costs.model = costs.model or model_info(config.model, loaded.model)
        say(f"{level}: measuring")
        measured = _measure(config, loaded, log)
        costs.measurements[level] = measured
        kept[level] = measured.table
        if config.out is not None:
            write_cost_file(Path(config.out).expanduser(), kept)
        if log is not None:
            log.costs[level] = measured.table
            write_costs(log.root, log.costs)
        if config.check:
            say(f"{level}: checking against live decoding")
            costs.checks[level] = _check(config, loaded, measured)
    return costs


def _kept(config: CostsConfig) -> dict[str, CostTable]:
    """Tables that the file holds already."""
    path = None if config.out is None else Path(config.out).expanduser()
    return read_cost_file(path) if path is not None and path.exists() else {}


def _measure(config: CostsConfig, loaded: LoadedModel, log: StepLog | None) -> CostMeasurement:
    level, exactness, exit_layers, vocabulary = loaded.compression, config.exactness, None, None
    if loaded.exits is not None:
        exit_layers, vocabulary = loaded.exits.exit_layers, loaded.exits.vocabulary
    if log is not None:
        manifest, found = log.manifest, model_fingerprint(loaded.model)
        if not same_model(manifest.model_fingerprint, found):
            raise InputError(
                f"log must be of model {config.model!r} ({found[:12]}), got one of {manifest.model!r} "
                f"({manifest.model_fingerprint[:12]})"
            )
        exit_layers, vocabulary = manifest.exit_layers, manifest.drafted_tokens()
        if exactness == "auto" and level in manifest.compressions:
            exactness = manifest.exactness_of(level)
    if exactness == "auto":
        exactness = "token" if level == "none" else "bitwise"
    prompt_ids = _prompt_ids(config.prompts, NUM_PROMPTS, loaded, TOKENS_PER_PROMPT, exactness)
    return cost_measurement(
        loaded, prompt_ids, config.num_steps, config.seed, config.max_seconds, exit_layers, exactness, vocabulary
    )


def _check(config: CostsConfig, loaded: LoadedModel, measured: CostMeasurement) -> list[KindCheck]:
    adapter = ModelAdapter(loaded.model)
    prompt_ids = _prompt_ids(
        config.check_prompts, config.num_check_prompts, loaded, CHECKED_TOKENS, measured.table.exactness
    )
    kinds: dict[str, Policy] = usual_kinds(adapter.num_layers)
    controller = load_controller(config.controller_name)
    if controller is not None:
        controller.check_model(model_fingerprint(loaded.model), adapter.num_layers)
        kinds["controller"] = controller.policy(measured.table, loaded.compression)
    return check_costs(loaded, prompt_ids, measured.table, kinds, CHECKED_TOKENS, probe_s=measured.table.probe_s)


def _prompt_ids(
    source: str, num_prompts: int, loaded: LoadedModel, max_new_tokens: int, exactness: str
) -> list[Tensor]:
    """(1, T) each, cut where the model has no room for the new tokens."""
    prompts, adapter = load_prompts(source, num_prompts), ModelAdapter(loaded.model)
    return tokenize_prompts(prompts, loaded, adapter, max_new_tokens, exactness=exactness)
