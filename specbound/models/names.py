"""What a user calls a controller. Loads nothing."""


def chosen_controller(controller: str | None, model: str) -> str:
    """The controller to use: by default the demonstration model's own, and none for other models."""
    if controller is not None:
        return controller
    return "demo" if model == "demo" else "none"
