"""Stage `exits`: exits of the reference model learn from what stage `write` wrote on the machine.

An unfinished training stays on the machine while it is held; the exits (`exits/`, at most 16 MB a file) come back with
the results. A dry run lets a tiny random model write and learn.
"""

import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from specbound.bench.gpu.carried import MODEL_FOLDER
from specbound.bench.gpu.finding import Finding, Part, Settings, Table
from specbound.bench.gpu.smollm2 import CONVERTED, carried_model, model_is_here
from specbound.bench.gpu.write import TEXT_RUN, dry_config
from specbound.stores.write import write_text
from specbound_train.exits.config import TrainExitsConfig
from specbound_train.exits.train import WEIGHTS_FILE, ExitsSummary, train_exits

RUN_FOLDER = EXITS_FOLDER = "exits"
TRAIN_S = 230.0
"""What training may take, with a short trial before that says how much that is."""
TRIAL_TOKENS, DRY_TOKENS = 60_000, 200
MOST_BYTES = 16 * 2**20
"""Of a file that comes back."""
EXIT_LAYERS = (2,)
VARIANTS = ("no-state", "low-rank")
ROW = ("variant", "exit_layer", "distance", "top1", "top2", "top4", "overlap")


def parts(settings: Settings) -> Iterator[Part]:
    """One part; none where there is no text of the model's own."""
    if settings.is_dry:
        with tempfile.TemporaryDirectory() as folder:
            write_text(dry_config(Path(folder), DRY_TOKENS), _say)
            yield Part("training", partial(trained, settings, Path(folder)), TRAIN_S)
    elif model_is_here("exits"):
        if not (MODEL_FOLDER / TEXT_RUN).is_dir():
            print("exits: left out, stage write has not written here", flush=True)
            return
        yield Part("training", partial(trained, settings, MODEL_FOLDER), TRAIN_S)


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


def _training(settings: Settings, folder: Path, out: Path, num_positions: int) -> TrainExitsConfig:
    sizes: dict[str, Any] = {"exit_layers": EXIT_LAYERS, "num_tokens": num_positions, "compare": VARIANTS}
    sizes |= {"batch_tokens": 16384, "learning_rate": 2e-3, "compression": "bf16", "validation_tokens": 16384}
    if settings.is_dry:
        sizes |= {"exit_layers": (1,), "num_tokens": 1000, "draft_vocabulary": 64, "compression": "none"}
        sizes |= {"batch_tokens": 1024, "validation_tokens": 100, "width": 32, "validation_share": 0.3}
    return TrainExitsConfig(
        out=str(out),
        model=str(folder / CONVERTED if settings.is_dry else carried_model(folder)),
        own_text=str(folder / TEXT_RUN),
        checkpoint_every=1000,
        validate_every=1_000_000,
        overwrite=True,
        **sizes,
    )


def _say(line: str) -> None:
    print(line, flush=True)


def _speed(summary: ExitsSummary) -> str:
    return (
        f"{summary.num_positions / summary.seconds:.0f} positions a second, all variants together; the draft "
        f"vocabulary holds {summary.coverage:.1%} of what was written; {summary.num_bytes / 1e6:.1f} MB"
    )
