"""Files that appear whole or not at all. Knows no content."""

from importlib.util import find_spec
from pathlib import Path

from specbound_controller.errors import InputError, MissingExtraError


def make_folder(out: str | Path, has_plots: bool = False) -> Path:
    """The folder, made now, so that hours of work do not end in an error.

    has_plots: whether plots are to be written into it.

    Raises:
        InputError: there is none and none can be made.
        MissingExtraError: there can be no plots.
    """
    if has_plots and find_spec("matplotlib") is None:
        raise MissingExtraError("what --out is to hold", "report")
    folder = Path(out).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out must be a folder that can be written, got {out} ({error.strerror})") from None
    return folder


def write_file(path: Path, content: bytes) -> Path:
    """Writes a file of the folder `out`; gives its path. Raises InputError where that cannot be done."""
    try:
        write_whole(path, content)
    except OSError as error:
        raise InputError(f"out must be a folder that can be written, got {path.parent} ({error.strerror})") from None
    return path


def write_whole(path: Path, content: bytes) -> None:
    """Writes beside, then renames; leaves nothing behind where that fails or is interrupted."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
