"""Stage `write`: text that the reference model writes itself, for the source `own_text` and for trained exits.

Each part raises what is written by some tokens; shards are brought back as a few archives. Counting is left to
`specbound write`, which takes the unpacked folder for a run of its own and has nothing more to write.
"""

import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from specbound.bench.gpu.carried import MODEL_FOLDER
from specbound.bench.gpu.finding import Finding, Part, Settings, Table
from specbound.bench.gpu.results import MOST_FILE_BYTES
from specbound.bench.gpu.smollm2 import CONVERTED, converted, model_is_here, write_dry_model
from specbound.stores.write import MANIFEST_FILE, TEXT_FOLDER, write_text
from specbound.stores.write_config import WriteConfig

TEXT_RUN = "own-text"
"""Folder of the run beside the model, and how the archives' names begin."""
TOKENS, DRY_TOKENS = tuple(range(2_000_000, 16_000_001, 2_000_000)), (8,)
"""What is written after each part."""
SECONDS = 60.0
MOST_ARCHIVES = 3
"""What more is written is not brought back."""


def parts(settings: Settings) -> Iterator[Part]:
    """A part for every two million tokens; none where the model has not been carried whole."""
    if not settings.is_dry and not model_is_here("write"):
        return
    for num_tokens in DRY_TOKENS if settings.is_dry else TOKENS:
        name = f"{num_tokens / 1e6:g} M tokens" if num_tokens >= 1e6 else f"{num_tokens} tokens"
        yield Part(name, partial(written, num_tokens, settings), SECONDS)


def written(num_tokens: int, settings: Settings) -> Finding:
    """Writes until there are so many tokens, and packs all shards."""
    with tempfile.TemporaryDirectory() as dry:
        config = dry_config(Path(dry), num_tokens) if settings.is_dry else carried_config(MODEL_FOLDER, num_tokens)
        run = write_text(config, partial(print, flush=True))
        archives = packed(run.folder, settings.out, MOST_FILE_BYTES)
    speed = run.num_new_tokens / run.seconds
    columns = ("tokens", "shards", "new tokens", "seconds", "tokens/s", "archives")
    rows = [(run.num_tokens, run.num_shards, run.num_new_tokens, run.seconds, speed, len(archives))]
    name = "a tiny random model" if settings.is_dry else "SmolLM2-135M-Instruct"
    options = f"--batch {config.batch} --compression {config.compression} --max-new-tokens {config.max_new_tokens}"
    note = (
        "unpack the archives into a folder and count there: specbound write --out FOLDER --model smollm2 "
        f"--prompts {config.prompts} {options} --num-tokens {num_tokens}"
    )
    return Finding([Table(f"{name}: own text, {config.batch} answers side by side", columns, rows)], [note])


def packed(folder: Path, out: Path, most_bytes: int) -> list[Path]:
    """The run's manifest and its shards in archives of at most so many bytes, whole shards each, the first ones first.

    Shards are compressed, so that their sizes add up.
    """
    for old in out.glob(f"{TEXT_RUN}-*.zip"):
        old.unlink()
    shards = sorted((folder / TEXT_FOLDER).glob("*.parquet"))
    made = []
    for number, group in enumerate(_groups([folder / MANIFEST_FILE, *shards], most_bytes - 100_000), start=1):
        if number > MOST_ARCHIVES:
            break
        path = out / f"{TEXT_RUN}-{number}.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for file in group:
                archive.write(file, file.relative_to(folder))
        made.append(path)
    return made


def _groups(files: Sequence[Path], most_bytes: int) -> Iterator[list[Path]]:
    group: list[Path] = []
    size = 0
    for file in files:
        of_file = file.stat().st_size + 400  # its name, twice, and what stands beside it
        if group and size + of_file > most_bytes:
            yield group
            group, size = [], 0
        group.append(file)
        size += of_file
    yield group


def carried_config(folder: Path, num_tokens: int) -> WriteConfig:
    """The carried model on the training prompts that ship."""
    return WriteConfig(
        model=str(converted(folder)),
        prompts="training",
        out=str(folder / TEXT_RUN),
        num_tokens=num_tokens,
        max_new_tokens=192,
        batch=600,
        compression="bf16",
    )


def dry_config(folder: Path, num_tokens: int) -> WriteConfig:
    """A tiny random model."""
    write_dry_model(folder / CONVERTED)
    return WriteConfig(
        model=str(folder / CONVERTED),
        prompts="training",
        out=str(folder / TEXT_RUN),
        num_tokens=num_tokens,
        max_new_tokens=2,
        batch=4,
    )
