"""Which controller a name means. Decodes nothing."""

from pathlib import Path

from specbound.assets import demo_controller_dir
from specbound_controller.controller import Controller


def load_controller(name: str) -> Controller | None:
    """`demo`, a folder, a Hugging Face name, or `none`. Raises InputError where no controller is there."""
    if name == "none":
        return None
    if name == "demo":
        return Controller.load(demo_controller_dir())
    from specbound.models.hub import is_hub_name, pull_controller

    return pull_controller(name) if is_hub_name(name) else Controller.load(Path(name).expanduser())
