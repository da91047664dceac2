"""The reference model's GGUF file in parts that each fit one call, and the questions it is asked: cut, joined again.

Every part lies in a folder of its own, so that a call carries one of them to a machine that keeps what the calls before
brought. Imports no torch.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from specbound_controller.errors import InputError

PART, ABOUT, QUESTIONS, MODEL = "part.bin", "part.json", "question.jsonl", "model.gguf"
"""Files of a part's folder; what the parts are joined to."""
MOST_PART_BYTES = 50_000_000


def split(file: Path, questions: Path | None, folder: Path, room: int) -> list[Path]:
    """Cuts a file into parts of less than 50 MB that leave each call within its limit; their folders.

    questions: Spec-Bench's question.jsonl, which goes with the first part. room: bytes that a call has for a part.

    Raises:
        InputError: there is no room, or no such file.
    """
    try:
        content = file.read_bytes()
        asked = questions.read_bytes() if questions is not None else b""
    except OSError as error:
        raise InputError(f"cannot be read: {error}") from error
    most = min(MOST_PART_BYTES - 1, room - len(asked))
    if most < len(content) // 16:
        raise InputError(f"a call must have room for a sixteenth of {file.name}, got {max(0, most)} bytes")
    shutil.rmtree(folder, ignore_errors=True)
    count = -(-len(content) // most)
    size = -(-len(content) // count)
    digest = hashlib.sha256(content).hexdigest()
    made = []
    for number in range(count):
        part = folder / f"part-{number + 1}-of-{count}"
        part.mkdir(parents=True)
        (part / PART).write_bytes(content[number * size : (number + 1) * size])
        (part / ABOUT).write_text(json.dumps({"number": number + 1, "count": count, "sha256": digest}))
        if number == 0 and questions is not None:
            (part / QUESTIONS).write_bytes(asked)
        made.append(part)
    return made


def parts_here(folder: Path) -> tuple[list[Path], int]:
    """The parts that have been carried, in order, and how many there are in all (0 where none is here)."""
    found = sorted((about["number"], path, about["count"]) for path, about in _abouts(folder))
    counts = {count for _, _, count in found}
    if len(counts) > 1:
        raise InputError(f"parts of different cuts lie in {folder}: delete them and carry those of one `make gpu-pack`")
    return [path for _, path, _ in found], counts.pop() if counts else 0


def joined(parts: Sequence[Path], target: Path) -> None:
    """Writes the whole file, or nothing. Raises InputError where it is not what was cut."""
    wanted = json.loads((parts[0] / ABOUT).read_text())["sha256"]
    digest, beside = hashlib.sha256(), target.with_name(target.name + ".new")
    with beside.open("wb") as whole:
        for part in parts:
            content = (part / PART).read_bytes()
            digest.update(content)
            whole.write(content)
    if digest.hexdigest() != wanted:
        beside.unlink()
        raise InputError(f"the parts in {parts[0].parent} do not make the file that was cut: carry them again")
    beside.rename(target)


def _abouts(folder: Path) -> list[tuple[Path, dict[str, int]]]:
    try:
        return [(path.parent, json.loads(path.read_text())) for path in folder.glob(f"part-*/{ABOUT}")]
    except (OSError, ValueError) as error:
        raise InputError(f"a part in {folder} cannot be read: {error}") from error
