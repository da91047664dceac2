"""The config of `specbound convert`. Imports no torch, so that `--help` is fast."""

from dataclasses import dataclass
from pathlib import Path

from specbound.models.names import GGUF_SUFFIX, is_gguf_name
from specbound_controller.errors import InputError


@dataclass(frozen=True, slots=True)
class ConvertConfig:
    """Writes the model of a GGUF file, its weights dequantised to float32, with its tokenizer, as a folder that loads
    like any checkpoint: specbound convert FILE.gguf DIR."""

    model: str
    """The file, or OWNER/REPOSITORY/FILE.gguf of the Hugging Face Hub."""
    out: str
    """Folder to write, which must not exist yet; it appears whole or not at all."""

    def __post_init__(self) -> None:
        if not is_gguf_name(self.model):
            raise InputError(f"model must be a file that ends with {GGUF_SUFFIX}, got {self.model!r}")

    def require_new(self, folder: Path) -> None:
        """Raises InputError where something is in the way, before the file is read."""
        if folder.exists():
            raise InputError(f"out must be a folder that does not exist yet, got {folder}")
