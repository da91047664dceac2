"""Every cell in turn, from where an earlier run stopped: what `specbound results` does. Knows no command line."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from specbound.bench.suite.cell import Cell, Way
from specbound.bench.suite.config import SuiteConfig
from specbound.bench.suite.store import Store
from specbound.bench.suite.table import CellResult, cell_result
from specbound.exits.trained import with_exits
from specbound.models.controllers import load_controller
from specbound.models.loading import LoadedModel, load_model, require_compression
from specbound.results.report import model_info
from specbound_controller.fingerprint import exact_part
from specbound_profiling.costs.machine import machine_fingerprint
from specbound_profiling.prompts.files import Prompt, load_prompts, prompts_hash

Say = Callable[[str], None]
NOT_PLANNED = ("out", "allow_noise", "json", "compression", "temperatures", "prompts", "controller")
"""Settings that may change when a run is gone on with; prompts count by their hash."""


@dataclass(slots=True)
class SuiteResult:
    """All cells that are finished."""

    model: dict[str, Any] = field(default_factory=dict)
    cells: list[CellResult] = field(default_factory=list)

    @property
    def is_trustworthy(self) -> bool:
        return all(cell.is_trustworthy for cell in self.cells)


def run_suite(
    config: SuiteConfig, say: Say = lambda line: None, on_cell: Callable[[SuiteResult], None] = lambda result: None
) -> SuiteResult:
    """Measures what is missing. `say` gets a line as each part begins, `on_cell` the results so far after each cell.

    Raises:
        InputError: bad input, or a folder that holds a run of other settings.
    """
    for compression in config.compression:
        require_compression(compression)
    prompts = load_prompts(config.prompts, config.num_prompts)
    controller = load_controller(config.controller_name)
    result, store = SuiteResult(), None
    for compression in config.compression:
        loaded = with_exits(load_model(config.model, compression), config.exits)
        info = model_info(config.model, loaded.model)
        result.model = result.model or info
        if controller is not None:
            controller.check_model(info["fingerprint"], info["num_layers"])
        store = store or Store(config.out, _plan(config, prompts, info, loaded))
        for temperature in config.temperatures:
            way = Way(compression, temperature)
            cell = Cell(config, way, loaded, controller, say)
            _finish(cell, store, prompts)
            result.cells.append(_result(cell, store, prompts))
            on_cell(result)
        del loaded
    return result


def _plan(config: SuiteConfig, prompts: Sequence[Prompt], info: dict[str, Any], loaded: LoadedModel) -> dict[str, Any]:
    """What must be the same where a run is gone on with."""
    settings = {name: value for name, value in asdict(config).items() if name not in NOT_PLANNED}
    settings["controller"] = config.controller_name
    hashes = {"prompts_hash": prompts_hash(prompts), "fingerprint": exact_part(info["fingerprint"])}
    return {**settings, **hashes, "exits": loaded.exits_name, "machine": machine_fingerprint(loaded.model.device)}


def _blocks(config: SuiteConfig, prompts: Sequence[Prompt]) -> list[Sequence[Prompt]]:
    size = config.block_prompts
    return [prompts[start : start + size] for start in range(0, len(prompts), size)]


def _finish(cell: Cell, store: Store, prompts: Sequence[Prompt]) -> None:
    blocks = _blocks(cell.config, prompts)
    missing = [number for number in range(len(blocks)) if not store.has_block(cell.way.name, number)]
    if not missing:
        return
    cell.set_up(store)
    for number in missing:
        cell.say(f"{cell.way.name}: block {number + 1} of {len(blocks)}")
        measured = cell.measure(blocks[number], number * cell.config.block_prompts)
        store.keep_block(cell.way.name, number, measured)


def _result(cell: Cell, store: Store, prompts: Sequence[Prompt]) -> CellResult:
    config = cell.config
    blocks = [store.block(cell.way.name, number) for number in range(len(_blocks(config, prompts)))]
    notes = (store.setup(cell.way.name) or {}).get("notes", [])
    measured = [prompt for block in blocks for prompt in block]
    return cell_result(cell.way, measured, notes, cell.adapter.num_layers, config.seed, config.allow_noise)
