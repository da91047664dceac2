"""Stage `exits`: exits for the reference model, trained on what stage `write` has let it write, for a part's time.

Text and an unfinished training stay on the machine while it is held; the exits (`exits/`, at most 16 MB a file) come
back with the results. A dry run takes a tiny random model in its place, and keeps nothing but the exits.
"""

import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from specbound.bench.gpu.carried import MODEL_FOLDER
from specbound.bench.gpu.finding import Finding, Part, Settings, Table
from specbound.bench.gpu.smollm2 import CONVERTED, converted, model_is_here, write_dry_model
from specbound.bench.gpu.write import TEXT_RUN
from specbound.stores.write import MANIFEST_FILE, write_text
from specbound.stores.write_config import WriteConfig
from specbound_train.exits.config import TrainExitsConfig
from specbound_train.exits.train import WEIGHTS_FILE, ExitsSummary, train_exits

RUN_FOLDER = EXITS_FOLDER = "exits"
SECONDS = 300.0
"""What training may take, with a short trial before it that says how many positions that is."""
TRIAL_POSITIONS = 60_000
MOST_BYTES = 16 * 2**20
"""Of a file that comes back."""
ROW = ("variant", "exit_layer", "distance", "top1", "top2", "top4", "overlap")


def parts(settings: Settings) -> Iterator[Part]:
    """One part; none where the model has not been carried whole, or has written nothing."""
    if not settings.is_dry:
        if not model_is_here("exits"):
            return
        if not (MODEL_FOLDER / TEXT_RUN / MANIFEST_FILE).is_file():
            print("exits: left out, stage write has left no text on this machine", flush=True)
            return
    yield Part("training", partial(trained, settings), SECONDS)


def trained(settings: Settings) -> Finding:
    """Exits after as many positions as the time allows, and what they agree on."""
    with tempfile.TemporaryDirectory() as out:
        folder = _dry_folder(Path(out)) if settings.is_dry else MODEL_FOLDER
        trial = train_exits(_config(settings, folder, Path(out) / "trial", TRIAL_POSITIONS), _say)
        positions = int(trial.num_positions / trial.seconds * (SECONDS - trial.seconds))
        run = folder / RUN_FOLDER
        shutil.rmtree(run, ignore_errors=True)
        summary = train_exits(_config(settings, folder, run, max(TRIAL_POSITIONS, positions)), _say)
        if summary.num_bytes > MOST_BYTES:
            raise ValueError(f"{WEIGHTS_FILE} must be at most {MOST_BYTES} bytes, got {summary.num_bytes}")
        shutil.copytree(run, settings.out / EXITS_FOLDER, dirs_exist_ok=True)
    rows = [[row[name] for name in ROW] for row in summary.agreement]
    title = f"Exits of the reference model after {summary.num_positions:,} positions of {summary.num_tokens:,}"
    return Finding([Table(title, ROW, rows)], [_speed(summary)])


def _config(settings: Settings, folder: Path, out: Path, num_positions: int) -> TrainExitsConfig:
    sizes: dict[str, Any] = {"exit_layers": (2,), "num_tokens": num_positions, "compare": ("no-state", "low-rank")}
    sizes |= {"batch_tokens": 16384, "compression": "bf16", "validation_tokens": 16384}
    if settings.is_dry:
        sizes |= {"exit_layers": (1,), "num_tokens": 1000, "draft_vocabulary": 64, "compression": "none"}
        sizes |= {"batch_tokens": 1024, "validation_tokens": 100, "width": 32, "validation_share": 0.3}
    return TrainExitsConfig(
        out=str(out),
        model=str(folder / CONVERTED if settings.is_dry else converted(folder)),
        own_text=str(folder / TEXT_RUN),
        checkpoint_every=1000,
        validate_every=1_000_000,
        overwrite=True,
        **sizes,
    )


def _dry_folder(folder: Path) -> Path:
    """A tiny random model and some text of its own."""
    model = folder / CONVERTED
    write_dry_model(model)
    text = str(folder / TEXT_RUN)
    write_text(
        WriteConfig(out=text, prompts="demo", model=str(model), num_tokens=200, max_new_tokens=16, batch=8), _say
    )
    return folder


def _say(line: str) -> None:
    print(line, flush=True)


def _speed(summary: ExitsSummary) -> str:
    return (
        f"{summary.num_positions / summary.seconds:.0f} positions a second, all variants together; the draft "
        f"vocabulary holds {summary.coverage:.1%} of what was written; {summary.num_bytes / 1e6:.1f} MB"
    )
