"""Which cost table a controller decides by: a file's, its own, or one measured here and kept for this user.

The table changes a controller's choices, never the output.
"""

import hashlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from specbound.decoding.greedy_twin import greedy_twin
from specbound.decoding.model.adapter import ModelAdapter
from specbound.models.fingerprint import model_fingerprint
from specbound.models.loading import LoadedModel
from specbound_controller.controller import Controller
from specbound_controller.costs import CostTable
from specbound_controller.draft_vocabulary import DraftVocabulary
from specbound_controller.errors import InputError, MissingExtraError
from specbound_controller.fingerprint import exact_part
from specbound_profiling.costs.machine import machine_fingerprint
from specbound_profiling.log.manifest import read_cost_file, read_costs, write_costs
from specbound_profiling.recording.config import NUM_STEPS

PROMPT_LENGTHS = (16, 64, 192)
"""Tokens of the prompts to measure on: random ones, because work is timed and not what comes out."""


PRODUCTS = "few rows, steps of blocks"
"""How steps multiply and which of their rows have prices: tables that were measured otherwise do not count."""


def choose_costs(
    source: str, controller: Controller, loaded: LoadedModel, exactness: str = "token", is_compiled: bool = False
) -> tuple[CostTable, str]:
    """The cost table to use, and one line that says which it is.

    Args:
        source: a file that specbound costs wrote, a log's folder, or `auto`: the controller's own table where it is
            from this machine, else one that was measured here before, else one measured now (needs scipy), else the
            controller's own all the same.
        exactness: kernels that steps will run on; `auto` measures where there is no table for them.
        is_compiled: whether they run on captured segments, of which no controller brings a table.
    """
    level = loaded.compression
    if source != "auto":
        return given_costs(Path(source).expanduser(), level), f"costs: from {source}"
    here, own = machine_fingerprint(loaded.model.device), controller.config.costs
    if not is_compiled and level in own and (own[level].machine, own[level].exactness) == (here, exactness):
        return own[level], "costs: the controller's own, from this machine"
    config = controller.config
    local = local_costs(
        loaded, config.model_fingerprint, config.exit_layers, exactness, controller.draft_vocabulary, is_compiled
    )
    if local is not None:
        return local
    used = level if level in own else controller.config.compressions[0]
    if used not in own:
        raise InputError(f"the controller carries no cost table for compression {level!r}: train it again")
    advice = "pip install 'specbound[profile]' to measure them here"
    return own[used], f"warning: costs are from another machine ({own[used].machine}), not {here}; {advice}"


def local_costs(
    loaded: LoadedModel,
    fingerprint: str,
    exit_layers: Sequence[int],
    exactness: str = "token",
    draft_vocabulary: DraftVocabulary | None = None,
    is_compiled: bool = False,
) -> tuple[CostTable, str] | None:
    """The table of this machine, measured before or now, and one line that says which; None where scipy is missing.

    Args:
        fingerprint: the model's.
        draft_vocabulary: tokens that exits read; None is all.
        is_compiled: whether steps run on captured segments.
    """
    level = loaded.compression
    if draft_vocabulary is None and loaded.exits is not None:
        draft_vocabulary = loaded.exits.vocabulary  # what decoders of it read where nothing else is asked for
    machine = machine_fingerprint(loaded.model.device)
    folder = kept_folder(machine, fingerprint, exactness, draft_vocabulary, is_compiled)
    kept = _read_kept(folder)
    if level in kept:
        return kept[level], f"costs: measured on this machine before, kept in {folder}"
    if importlib.util.find_spec("scipy") is None:
        return None
    table = _measure(loaded, exit_layers, exactness, draft_vocabulary, is_compiled)
    return table, f"costs: measured on this machine, {_keep(folder, {**kept, level: table})}"


def required_costs(
    loaded: LoadedModel,
    exit_layers: Sequence[int],
    exactness: str,
    draft_vocabulary: DraftVocabulary | None = None,
    is_compiled: bool = False,
) -> tuple[CostTable, str]:
    """The same where nothing can be done without: raises MissingExtraError where scipy is missing."""
    fingerprint = model_fingerprint(loaded.model)
    found = local_costs(loaded, fingerprint, exit_layers, exactness, draft_vocabulary, is_compiled)
    if found is None:
        raise MissingExtraError("measuring costs", "profile")
    return found


def kept_folder(
    machine: str,
    model_fingerprint: str,
    exactness: str = "token",
    draft_vocabulary: DraftVocabulary | None = None,
    is_compiled: bool = False,
) -> Path:
    """Where this user's tables for a machine, a model and a way to run it are kept."""
    parts = [machine, exact_part(model_fingerprint), exactness, PRODUCTS]
    if draft_vocabulary is not None:
        parts.append(draft_vocabulary.checksum)
    if is_compiled:
        parts.append("compiled")
    name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return Path("~/.cache/specbound").expanduser() / f"costs-{name}"


def measured_once(
    loaded: LoadedModel,
    exactness: str,
    vocabulary: DraftVocabulary | None,
    num_steps: int,
    measure: Callable[[], CostTable],
) -> CostTable:
    """The table that is kept for this machine, else `measure()`'s, which is then kept: how `profile` prices a log.

    Kept tables were measured on `NUM_STEPS`: where more are asked for, they do not do; what fewer gave is not kept.
    """
    folder = kept_folder(
        machine_fingerprint(loaded.model.device), model_fingerprint(loaded.model), exactness, vocabulary
    )
    kept = _read_kept(folder)
    if loaded.compression in kept and num_steps <= NUM_STEPS:
        return kept[loaded.compression]
    table = measure()
    if num_steps >= NUM_STEPS:
        _keep(folder, {**kept, loaded.compression: table})
    return table


def given_costs(path: Path, level: str) -> CostTable:
    """The table of a level in a log's folder, or in a file that specbound costs wrote."""
    tables = read_cost_file(path) if path.is_file() else read_costs(path)
    if level not in tables:
        found = ", ".join(tables) if tables else "none"
        raise InputError(f"costs must be auto or a costs.json with compression {level!r}, got {found} ({path})")
    return tables[level]


def _measure(
    loaded: LoadedModel,
    exit_layers: Sequence[int],
    exactness: str,
    draft_vocabulary: DraftVocabulary | None,
    is_compiled: bool,
) -> CostTable:
    from specbound_profiling.costs.measure import TOKENS_PER_PROMPT, measure_costs
    from specbound_profiling.progress import status

    adapter = ModelAdapter(loaded.model)
    room = max(PROMPT_LENGTHS) if adapter.max_positions is None else max(1, adapter.max_positions - TOKENS_PER_PROMPT)
    random = torch.Generator().manual_seed(0)
    lengths = [min(length, room) for length in PROMPT_LENGTHS]
    prompts = [torch.randint(adapter.vocab_size, (1, length), generator=random) for length in lengths]
    with status("measuring what work costs on this machine, once"):
        greedy = replace(loaded, model=greedy_twin(loaded.model))
        return measure_costs(
            greedy,
            prompts,
            exit_layers=exit_layers,
            exactness=exactness,
            draft_vocabulary=draft_vocabulary,
            is_compiled=is_compiled,
        )


def _read_kept(folder: Path) -> dict[str, CostTable]:
    """The kept tables by level; none where they are damaged, so that they are measured anew."""
    try:
        return read_costs(folder)
    except InputError:
        return {}


def _keep(folder: Path, tables: dict[str, CostTable]) -> str:
    """Writes the tables of this machine and model; says what became of it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_costs(folder, tables)
    except OSError as error:
        return f"not kept ({error.strerror}: {folder})"
    return f"kept in {folder}"
