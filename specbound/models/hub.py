"""Controllers on the Hugging Face Hub, or in a folder, by the methods that its users know. Loads no model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import ModelHubMixin, constants, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from specbound.models.names import FITTED_FILE, FITTED_FOLDER
from specbound_controller.card import CARD_FILE, controller_card
from specbound_controller.controller import CONFIG_FILE, WEIGHTS_FILE, Controller
from specbound_controller.errors import InputError
from specbound_controller.text_files import read_json, read_text

PREFIX = "hf:"
"""Before a name that is to be looked up on the Hub in any case."""


class HubController(ModelHubMixin):
    """A controller with `from_pretrained`, `save_pretrained` and `push_to_hub`; thin, around `controller`.

    Example:
        >>> HubController.from_pretrained("user/controller").controller
        >>> HubController(controller).push_to_hub("user/controller")
    """

    _hub_mixin_config: dict[str, Any] = {}  # noqa: RUF012  (the controller writes its own config.json)

    def __init__(self, controller: Controller) -> None:
        self.controller = controller

    def _save_pretrained(self, save_directory: Path) -> None:
        self.controller.save(save_directory)
        (save_directory / CARD_FILE).write_text(controller_card(self.controller.config), encoding="utf-8")

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> "HubController":
        folder = Path(model_id)
        if not folder.is_dir():
            known = ("revision", "cache_dir", "force_download", "local_files_only", "token")
            download = {name: options[name] for name in known if name in options}
            folder = Path(snapshot_download(model_id, allow_patterns=[CONFIG_FILE, WEIGHTS_FILE], **download))
        return cls(Controller.load(folder))


def pull_controller(name: str) -> Controller:
    """The controller of a Hub name, with or without `hf:`, from the Hub or from what was fetched before.

    Raises:
        InputError: no such name, no network and nothing fetched before, or no controller there; one line says which.
    """
    name = name.removeprefix(PREFIX)
    try:
        return HubController.from_pretrained(name).controller
    except InputError as error:
        raise InputError(f"controller {name!r} from the Hugging Face Hub: {error}") from error
    except HFValidationError as error:
        raise InputError(
            f"controller must be a folder, demo, none, or a Hub name, got {name!r}: {_line(error)}"
        ) from error
    except (RepositoryNotFoundError, EntryNotFoundError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise InputError(f"controller {name!r} is neither a folder nor on the Hub: {_reason(error)}") from error
    except (HfHubHTTPError, OSError) as error:
        raise InputError(f"controller {name!r} could not be fetched: {_line(error)}") from error
    except (
        ValueError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:  # the mixin reads config.json before the controller does
        raise InputError(f"controller {name!r}: {CONFIG_FILE} is not a controller's config: {_line(error)}") from error


FOLDER_FILES = (
    CONFIG_FILE,
    WEIGHTS_FILE,
    FITTED_FILE,
    "costs.json",
    f"{FITTED_FOLDER}/{CONFIG_FILE}",
    f"{FITTED_FOLDER}/{WEIGHTS_FILE}",
)
"""What of a repository that holds a controller, or a folder that `specbound fit` wrote, is fetched."""


def pull_folder(
    name: str,
    what: str = "decoder",
    files: Sequence[str] = FOLDER_FILES,
    needed: Sequence[str] = (CONFIG_FILE, WEIGHTS_FILE),
) -> Path:
    """The folder of a Hub name, with or without `hf:`, as it was fetched now or before. Raises InputError, one line.

    what: it holds, for messages. files: to fetch. needed: without which a repository holds no such thing.
    """
    name = name.removeprefix(PREFIX)
    try:
        return Path(snapshot_download(name, allow_patterns=list(files)))
    except HFValidationError as error:
        raise InputError(f"a {what} must be a folder, or a Hub name, got {name!r}: {_line(error)}") from error
    except (RepositoryNotFoundError, EntryNotFoundError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise InputError(f"{what} {name!r} is neither a folder nor on the Hub: {_reason(error, needed)}") from error
    except (HfHubHTTPError, OSError) as error:
        raise InputError(f"{what} {name!r} could not be fetched: {_line(error)}") from error


def push_controller(controller: Controller, name: str) -> str:
    """Puts a controller with its model card on the Hub, into a repository that is made where there is none.

    Returns where it stands. Raises InputError where it could not be put there; the folder on disk is untouched.
    """
    name = name.removeprefix(PREFIX)
    try:
        return str(HubController(controller).push_to_hub(name, commit_message="A specbound controller"))
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
        raise InputError(
            f"controller could not be pushed to {name!r}: {_line(error)}; log in with hf auth login"
        ) from error


def pull_card(name: str) -> tuple[str, str]:
    """The model card of a repository, and the sha256 of its weights, which a controller and trained exits both name.

    Raises InputError where it cannot be fetched, or holds neither.
    """
    folder = pull_folder(name, "model card", (CARD_FILE, CONFIG_FILE), (CARD_FILE, CONFIG_FILE))
    config = read_json(folder / CONFIG_FILE)
    checksum = config.get("weights_sha256") if isinstance(config, dict) else None
    if not isinstance(checksum, str):
        raise InputError(f"{name!r} on the Hugging Face Hub is neither a controller nor trained exits")
    return read_text(folder / CARD_FILE), checksum


def push_card(text: str, name: str) -> str:
    """Replaces the model card of a repository; returns where it stands. Raises InputError where that fails."""
    name = name.removeprefix(PREFIX)
    try:
        message = "What decoding with it is worth, measured by specbound evaluate"
        return str(
            huggingface_hub.upload_file(
                repo_id=name, path_or_fileobj=text.encode(), path_in_repo=CARD_FILE, commit_message=message
            )
        )
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
        raise InputError(f"the model card could not be pushed to {name!r}: {_line(error)}") from error


def check_push(name: str) -> None:
    """Raises InputError where a push is bound to fail, before the work."""
    try:
        huggingface_hub.utils.validate_repo_id(name.removeprefix(PREFIX))
    except HFValidationError as error:
        raise InputError(
            f"push_to_hub must be a Hub name such as user/controller, got {name!r}: {_line(error)}"
        ) from error
    if constants.HF_HUB_OFFLINE:
        raise InputError("push_to_hub needs the network, but HF_HUB_OFFLINE is set")
    if huggingface_hub.get_token() is None:
        raise InputError("push_to_hub needs a login: hf auth login")


def is_hub_name(name: str) -> bool:
    """Whether a controller's name means the Hub: by its prefix, or OWNER/NAME where no such path begins to exist."""
    if name.startswith(PREFIX):
        return True
    parts = name.split("/")
    exists = Path(name).exists() or Path(parts[0]).exists()
    return len(parts) == 2 and all(parts) and name[0] not in ".~" and not exists


def _reason(error: Exception, needed: Sequence[str] = (CONFIG_FILE, WEIGHTS_FILE)) -> str:
    if constants.HF_HUB_OFFLINE or isinstance(error, OfflineModeIsEnabled):
        return "it was not fetched before, and HF_HUB_OFFLINE is set"
    if isinstance(error, LocalEntryNotFoundError):
        return "it was not fetched before, and the Hugging Face Hub cannot be reached"
    if isinstance(error, RepositoryNotFoundError):
        return "the Hugging Face Hub has no such repository, or it is private and you are not logged in"
    return f"the repository holds no {' and '.join(needed)}"


def _line(error: Exception) -> str:
    """The error in one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
