"""Stage `exits`: the reference model writes text and exits learn from it, for as long as their parts may take.

The model is joined from the parts that the calls have carried, as for stage `smollm2`. Text and an unfinished training
stay on the machine while it is held; the exits (`exits/`, at most 16 MB a file) come back with the results. A dry run
takes a tiny random model in its place, and keeps nothing but the exits.
"""

import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from specbound.bench.gpu.carried import MODEL_FOLDER
from specbound.bench.gpu.finding import Finding, Part, Settings, Table
from specbound.bench.gpu.model_parts import parts_here
from specbound.bench.gpu.smollm2 import CONVERTED, carried_model, write_dry_model
from specbound.stores.write import Written, write
from specbound.stores.write_config import WriteConfig
from specbound_train.exits.config import TrainExitsConfig
from specbound_train.exits.train import WEIGHTS_FILE, ExitsSummary, train_exits

TEXT_FOLDER, RUN_FOLDER, EXITS_FOLDER = "own-text", "exits", "exits"
WRITE_S, TRAIN_S = 170.0, 240.0
"""What writing and training may take, each with a short trial before that says how much that is."""
TRIAL_TOKENS = 60_000
MOST_BYTES = 16 * 2**20
"""Of a file that comes back."""
EXIT_LAYERS = (2,)
VARIANTS = ("no-state", "low-rank")
ROW = ("variant", "exit_layer", "distance", "top1", "top2", "top4", "overlap")


def parts(settings: Settings) -> Iterator[Part]:
    """Text first, then exits; none where the model has not been carried whole."""
    if not settings.is_dry:
        here, count = parts_here(MODEL_FOLDER)
        if not count or len(here) < count:
            print(f"exits: left out, {len(here)} of {count or 'several'} parts of the model are here", flush=True)
            return
    kept = tempfile.TemporaryDirectory() if settings.is_dry else None
    folder = MODEL_FOLDER if kept is None else Path(kept.name)
    yield Part("text", partial(written, settings, folder), WRITE_S)
    yield Part("training", partial(trained, settings, folder), TRAIN_S)
    if kept is not None:
        kept.cleanup()


def written(settings: Settings, folder: Path) -> Finding:
    """As much own text as the time allows. folder: where it lies, and the model"""
    found = _write(settings, folder, TRIAL_TOKENS)
    if not settings.is_dry:
        more = int(found.num_new_tokens / found.seconds * (WRITE_S - found.seconds))
        found = _write(settings, folder, found.num_tokens + max(0, more))
    rows = [[found.num_tokens, found.num_new_tokens / found.seconds, found.num_shards]]
    return Finding([Table("Own text of the reference model", ("tokens", "tokens/s", "shards"), rows)])


def trained(settings: Settings, folder: Path) -> Finding:
    """Exits after as many positions as the time allows, and what they agree on."""
    with tempfile.TemporaryDirectory() as out:
        trial = train_exits(_training(settings, folder, Path(out) / "trial", TRIAL_TOKENS), _say)
    positions = int(trial.num_positions / trial.seconds * (TRAIN_S - trial.seconds))
    run = folder / RUN_FOLDER
    shutil.rmtree(run, ignore_errors=True)
    summary = train_exits(_training(settings, folder, run, max(TRIAL_TOKENS, positions)), _say)
    if summary.num_bytes > MOST_BYTES:
        raise ValueError(f"{WEIGHTS_FILE} must be at most {MOST_BYTES} bytes, got {summary.num_bytes}")
    shutil.copytree(run, settings.out / EXITS_FOLDER, dirs_exist_ok=True)
    rows = [[row[name] for name in ROW] for row in summary.agreement]
    title = f"Exits of the reference model after {summary.num_positions:,} positions of {summary.num_tokens:,}"
    return Finding([Table(title, ROW, rows)], [_speed(summary)])


def _write(settings: Settings, folder: Path, num_tokens: int) -> Written:
    is_dry = settings.is_dry
    config = WriteConfig(
        out=str(folder / TEXT_FOLDER),
        prompts="demo" if is_dry else "training",
        model=str(_model(settings, folder)),
        num_tokens=200 if is_dry else num_tokens,
        max_new_tokens=16 if is_dry else 256,
        batch=8 if is_dry else 256,
        compression="none" if is_dry else "bf16",
    )
    return write(config, _say)


def _training(settings: Settings, folder: Path, out: Path, num_positions: int) -> TrainExitsConfig:
    sizes: dict[str, Any] = {"exit_layers": EXIT_LAYERS, "num_tokens": num_positions, "compare": VARIANTS}
    sizes |= {"batch_tokens": 16384, "learning_rate": 2e-3, "compression": "bf16", "validation_tokens": 16384}
    if settings.is_dry:
        sizes |= {"exit_layers": (1,), "num_tokens": 1000, "draft_vocabulary": 64, "compression": "none"}
        sizes |= {"batch_tokens": 1024, "validation_tokens": 100, "width": 32, "validation_share": 0.3}
    return TrainExitsConfig(
        out=str(out),
        model=str(_model(settings, folder)),
        own_text=str(folder / TEXT_FOLDER),
        checkpoint_every=1000,
        validate_every=1_000_000,
        overwrite=True,
        **sizes,
    )


def _model(settings: Settings, folder: Path) -> Path:
    if not settings.is_dry:
        return carried_model(folder)
    model = folder / CONVERTED
    if not model.is_dir():
        write_dry_model(model)
    return model


def _say(line: str) -> None:
    print(line, flush=True)


def _speed(summary: ExitsSummary) -> str:
    return (
        f"{summary.num_positions / summary.seconds:.0f} positions a second, all variants together; the draft "
        f"vocabulary holds {summary.coverage:.1%} of what was written; {summary.num_bytes / 1e6:.1f} MB"
    )
