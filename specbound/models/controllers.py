"""Which controller a name means. Decodes nothing."""

from pathlib import Path

from specbound.assets import demo_controller_dir
from specbound.models.names import FITTED_FILE, FITTED_FOLDER, NOTES_FILE
from specbound_controller.controller import WEIGHTS_FILE, Controller
from specbound_controller.errors import InputError


def load_controller(name: str) -> Controller | None:
    """`demo`, a folder, a Hugging Face name, or `none`. Raises InputError where no controller is there."""
    if name == "none":
        return None
    if name == "demo":
        return Controller.load(demo_controller_dir())
    from specbound.models.hub import is_hub_name, pull_controller

    if is_hub_name(name):
        return pull_controller(name)
    folder = Path(name).expanduser()
    if (folder / NOTES_FILE).is_file() and not (folder / FITTED_FILE).is_file():
        raise InputError(f"specbound fit has not finished in {folder}: start it again, it goes on where it stopped")
    if (folder / FITTED_FOLDER).is_dir() and not (folder / WEIGHTS_FILE).exists():
        return Controller.load(folder / FITTED_FOLDER)  # of a folder that `specbound fit` wrote
    _refuse_other_folder(folder)
    return Controller.load(folder)


def _refuse_other_folder(folder: Path) -> None:
    """Raises InputError, with what to do, where the folder is another stage's."""
    if (folder / "manifest.json").is_file():
        raise InputError(
            f"controller must be a folder that train-controller wrote, got the log {folder}: specbound "
            f"train-controller --log {folder} --out CONTROLLER"
        )
    if (folder / FITTED_FILE).is_file():
        raise InputError(
            f"controller must be a folder with a controller, and fit kept none in {folder}, because none was faster: "
            f"take specbound generate --policy {folder}, or SpecBoundDecoder.from_pretrained(model, {str(folder)!r})"
        )
