"""Files that appear whole or not at all. Knows no content."""

from pathlib import Path

from specbound_controller.errors import InputError


def make_folder(out: Path) -> None:
    """Raises InputError where there is none and none can be made."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out must be a folder that can be written, got {out} ({error.strerror})") from None


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
