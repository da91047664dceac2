"""`train_exits`: checks what can be checked before any work, trains, measures, saves. Imports no torch by itself."""

import csv
import io
import json
import platform
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specbound_controller.errors import InputError
from specbound_train.config import LOGS_FOLDER, UNFINISHED_FOLDER
from specbound_train.exits.config import TrainExitsConfig
from specbound_train.extras import require_extras

if TYPE_CHECKING:
    from specbound.decoding.model.adapter import ModelAdapter
    from specbound.models.loading import LoadedModel
    from specbound_train.exits.text import Text
    from specbound_train.exits.training import ExitTraining

WEIGHTS_FILE = "exits.safetensors"
CURVE_FILE, SETTINGS_FILE = "curve.csv", "settings.json"
TRIAL_SHARE = 0.1
"""Of the positions, that the choice of the exit layer may take."""
FREE_SETTINGS = ("out", "threads", "overwrite", "resume", "logger", "checkpoint_every")
"""Settings that a run which goes on may change."""
PACKAGES = ("specbound", "torch", "transformers", "lightning", "safetensors")


@dataclass(frozen=True, slots=True)
class ExitsSummary:
    """What a run has reached."""

    out: str
    name: str
    """Of the set of exits."""
    exit_layers: tuple[int, ...]
    num_tokens: int
    """Positions of the training text."""
    num_positions: int
    """Trained on, over all passes."""
    coverage: float
    """Share of the drafted tokens of the training text that the draft vocabulary holds."""
    agreement: tuple[dict[str, Any], ...]
    """On held-out text: rows of variant, exit layer and distance."""
    num_bytes: int
    """Of the weights on disk."""
    seconds: float

    def __str__(self) -> str:
        lines = ["variant            exit  distance   first  of 2   of 4   overlap"]
        for row in self.agreement:
            distance = row["distance"] or "any"
            shares = "  ".join(f"{row[key]:.3f}" for key in ("top1", "top2", "top4", "overlap"))
            lines.append(f"{row['variant']:<18} {row['exit_layer']:>4}  {distance:>8}   {shares}")
        lines.append(
            f"{self.num_positions} positions of {self.num_tokens}; the draft vocabulary holds {self.coverage:.1%} of "
            f"what was written; {self.num_bytes / 1e6:.1f} MB: {self.out}"
        )
        return "\n".join(lines)


def train_exits(config: TrainExitsConfig, say: Callable[[str], None] = lambda line: None) -> ExitsSummary:
    """Trains exits for a frozen model and saves them; returns what a reader should know of them.

    A run that is killed goes on from its last checkpoint with the same call, and ends with the same files.

    Raises:
        InputError: no text or too little, text of another model, a head that cannot be cut down, a folder that must not
            be written to, a disk that is full.
        MissingExtraError: Lightning or the logger is not installed.
    """
    started = time.perf_counter()
    require_extras("training exits", ("lightning", "pyarrow"), config.logger)
    folder = _folder(config)
    from specbound.decoding.model.adapter import ModelAdapter
    from specbound.decoding.model.draft_head import require_plain
    from specbound.exits.trained import ExitsConfig, TrainedExits
    from specbound.models.fingerprint import model_fingerprint
    from specbound.models.loading import load_model
    from specbound_controller.draft_vocabulary import most_frequent
    from specbound_profiling.versions import versions_of
    from specbound_train.exits.students import MAIN, shape_of, student_name
    from specbound_train.exits.text import load_text

    loaded = load_model(config.model, config.compression)
    loaded.model.requires_grad_(False)
    adapter = ModelAdapter(loaded.model)
    require_plain(adapter.head, loaded.name)
    text = load_text(config, loaded, adapter)
    vocabulary = most_frequent(
        text.counts, min(config.draft_vocabulary, adapter.vocab_size), sorted(adapter.eos_token_ids)
    )
    fingerprint = model_fingerprint(loaded.model)
    _claim(folder, config, {"text": text.checksum, "model_fingerprint": fingerprint})
    exit_layers = _exit_layers(folder, config, loaded, adapter, text, vocabulary, say)
    training = _fit(config, adapter, text, vocabulary, exit_layers, (MAIN, *config.compare), folder, say)
    found = training.read_curve({})
    modules = {layer: training.students[student_name(MAIN, layer)] for layer in exit_layers}
    coverage = vocabulary.share(text.counts)
    figures = {
        "model": Path(loaded.name).name if "/" in loaded.name else loaded.name,
        "text": f"{text.num_positions} positions of {len(text.training)} pieces ({text.checksum[:16]})",
        "own_text": bool(config.own_text),
        "natural_text": [Path(name).name for name in config.text],
        "positions_trained_on": training.num_positions,
        "loss": config.loss,
        "miss_weight": config.miss_weight,
        "seed": config.seed,
        "coverage_of_the_draft_vocabulary": round(coverage, 4),
        "agreement": [each.row() for each in found],
    }
    versions = {"python": platform.python_version(), **versions_of(PACKAGES)}
    shape = shape_of(config, adapter.config.hidden_size)
    known = ExitsConfig(fingerprint, adapter.num_layers, adapter.vocab_size, exit_layers, shape, figures, versions)
    exits = TrainedExits(known, modules, vocabulary.ids)  # type: ignore[arg-type]
    _save(exits, training.curve, folder)
    return ExitsSummary(
        str(folder),
        exits.name,
        exit_layers,
        text.num_positions,
        training.num_positions,
        coverage,
        tuple(each.row() for each in found),
        (folder / WEIGHTS_FILE).stat().st_size,
        time.perf_counter() - started,
    )


def _fit(
    config: TrainExitsConfig,
    adapter: "ModelAdapter",
    text: "Text",
    vocabulary: Any,
    exit_layers: tuple[int, ...],
    variants: tuple[str, ...],
    folder: Path | None,
    say: Callable[[str], None],
) -> "ExitTraining":
    """One training. folder: of the run; None keeps no checkpoint and logs nothing"""
    import torch

    from specbound_train.exits.start import start_students
    from specbound_train.exits.students import Teacher, new_modules
    from specbound_train.exits.training import CHECKPOINT, fit_exits
    from specbound_train.loggers import finish, make_logger

    teacher = Teacher(adapter, vocabulary, exit_layers)
    with torch.random.fork_rng(devices=[]):
        students = new_modules(config, adapter, exit_layers, variants)
        logger = None if folder is None else make_logger(config.logger, str(folder), "exits")
        kept = None if folder is None else folder / UNFINISHED_FOLDER
        if kept is None or not (kept / CHECKPOINT).exists():
            start_students(students, teacher, text, config)
        training = fit_exits(config, teacher, students, text, kept, logger, say)
        finish(logger)
    training.students.to(adapter.device).eval()
    return training


def _exit_layers(
    folder: Path,
    config: TrainExitsConfig,
    loaded: "LoadedModel",
    adapter: "ModelAdapter",
    text: "Text",
    vocabulary: Any,
    say: Callable[[str], None],
) -> tuple[int, ...]:
    """The given layers, or the one that a short trial finds; what a killed run has found is not tried again."""
    if config.exit_layers != "auto":
        return tuple(sorted(set(config.exit_layers)))
    from specbound_train.exits.choose import best_exit, candidates, draft_cost
    from specbound_train.exits.students import MAIN

    path = folder / UNFINISHED_FOLDER / "exit_layer.json"
    if path.exists():
        return (int(json.loads(path.read_text())),)
    tried = candidates(adapter.num_layers)
    if len(tried) > 1:
        say(f"trying exit layers {', '.join(map(str, tried))}")
        trial = replace(config, num_tokens=max(1000, int(TRIAL_SHARE * config.num_tokens)), compare=())
        training = _fit(trial, adapter, text, vocabulary, tried, (MAIN,), None, say)
        found = training.read_curve({})
        num_module = sum(p.numel() for p in training.students[f"{MAIN}@{tried[0]}"].parameters())
        num_module += len(vocabulary) * adapter.config.hidden_size
        num_layer = sum(p.numel() for p in adapter.layers[0].parameters())
        num_head = adapter.vocab_size * adapter.config.hidden_size
        costs = {e: draft_cost(e, adapter.num_layers, num_layer, num_module, num_head) for e in tried}
        chosen = best_exit(found, MAIN, costs)
    else:
        chosen = tried[0]
    say(f"exit layer {chosen}")
    path.write_text(json.dumps(chosen))
    return (chosen,)


def _save(exits: Any, curve: Sequence[dict[str, Any]], folder: Path) -> None:
    """The curve, then the exits, then nothing is left of the run that is unfinished."""
    from specbound.results.files import write_whole

    try:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(curve[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(curve)
        write_whole(folder / CURVE_FILE, text.getvalue().encode("utf-8"))
        exits.save_pretrained(folder)
    except OSError as error:
        raise InputError(
            f"exits cannot be written to {folder}: {error.strerror}; once they can be, run the same command again"
        ) from None
    shutil.rmtree(folder / UNFINISHED_FOLDER, ignore_errors=True)


def _claim(folder: Path, config: TrainExitsConfig, facts: dict[str, str]) -> None:
    """Begins a run, or goes on with one of the same settings."""
    settings = {name: value for name, value in asdict(config).items() if name not in FREE_SETTINGS}
    wanted = json.loads(json.dumps(settings | facts))
    kept = folder / UNFINISHED_FOLDER
    path = kept / SETTINGS_FILE
    if not config.resume:
        shutil.rmtree(kept, ignore_errors=True)
    if path.exists():
        held = json.loads(path.read_text())
        for name, value in wanted.items():
            if held.get(name) != value:
                raise InputError(
                    f"{name} must be {held.get(name)!r} to go on with {folder}, got {value!r}: give another --out, or "
                    "--no-resume"
                )
        return
    try:
        kept.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(wanted))
    except OSError as error:
        raise InputError(f"out {folder} cannot be written to: {error.strerror}") from None


def _folder(config: TrainExitsConfig) -> Path:
    """The folder to write to, made now, which must hold nothing that would be lost."""
    folder = Path(config.out).expanduser()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"out must be a folder, got the file {folder}")
    found = sorted(p.name for p in folder.iterdir()) if folder.exists() else []
    others = [name for name in found if name not in (LOGS_FOLDER, UNFINISHED_FOLDER)]
    is_unfinished = (folder / UNFINISHED_FOLDER).is_dir()  # killed while it saved
    if others and not is_unfinished and not (config.overwrite and WEIGHTS_FILE in found):
        raise InputError(
            f"out must be empty or new, got {folder} with {', '.join(others[:3])}; choose another or pass --overwrite"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out {folder} cannot be written to: {error.strerror}") from error
    return folder
