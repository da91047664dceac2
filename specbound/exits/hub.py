"""Where trained exits come from: a folder, the package, or the Hugging Face Hub; and the way back there."""

from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from specbound.assets import smollm2_exits_dir
from specbound.models.hub import PREFIX, is_hub_name, pull_folder
from specbound_controller.errors import InputError

FILES = ("exits.safetensors", "config.json", "README.md")
SHIPPED = "smollm2"
"""Name of the set that the package may hold."""


def exits_folder(name: str) -> Path:
    """The folder that a name means; fetched where it is OWNER/NAME on the Hub.

    Raises:
        InputError: there is none.
    """
    if name == SHIPPED:
        folder = smollm2_exits_dir()
        if not folder.is_dir():
            raise InputError(
                "exits smollm2 are not part of this installation: train them with specbound train-exits --model smollm2"
            )
        return folder
    if not is_hub_name(name):
        return Path(name).expanduser()
    return pull_folder(name, "set of exits", FILES, FILES[:2])


def push_exits(folder: Path, name: str) -> str:
    """Puts a folder of exits on the Hub, into a repository that is made where there is none; returns where.

    Raises:
        InputError: it could not be put there; the folder on disk is untouched.
    """
    name = name.removeprefix(PREFIX)
    try:
        huggingface_hub.create_repo(name, exist_ok=True)
        message = "Trained exits for specbound"
        return str(
            huggingface_hub.upload_folder(
                repo_id=name, folder_path=folder, allow_patterns=list(FILES), commit_message=message
            )
        )
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
        raise InputError(f"exits could not be pushed to {name!r}: {_line(error)}; log in with hf auth login") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
