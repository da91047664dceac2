"""What a user calls a model and a controller. Loads nothing, imports no torch."""

from specbound_controller.errors import InputError

GGUF_SUFFIX = ".gguf"

FITTED_FOLDER, FITTED_FILE, NOTES_FILE = "controller", "decoder.json", "fit.json"
"""In a folder that `specbound fit` wrote: where the controller lies, what says which policy to play, and what the run
has found so far."""


def chosen_controller(controller: str | None, model: str) -> str:
    """The controller to use: by default the demonstration model's own, and none for other models."""
    if controller is not None:
        return controller
    return "demo" if model == "demo" else "none"


def is_gguf_name(name: str) -> bool:
    """Whether a model's name means a GGUF file, on disk or in a repository of the Hub."""
    return name.endswith(GGUF_SUFFIX)


def joined_name(model: str, gguf_file: str) -> str:
    """The one name of a GGUF file in a folder or in a Hub repository. Raises InputError where the file's is none."""
    if not is_gguf_name(gguf_file):
        raise InputError(f"gguf_file must be a file that ends with {GGUF_SUFFIX}, got {gguf_file!r}")
    if is_gguf_name(model) or model in ("", "demo", "smollm2"):
        raise InputError(f"gguf_file needs a folder or a Hugging Face name as model, got {model!r}")
    return f"{model.rstrip('/')}/{gguf_file}"
