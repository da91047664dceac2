"""The config of `specbound export-generate`. Imports no torch, so that `--help` is fast."""

from dataclasses import dataclass

from specbound.decoding.exactness import require_exactness
from specbound_controller.errors import InputError
from specbound_controller.policy_names import require_policy_name
from specbound_controller.trees.names import TREE_NAMES


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """Writes custom_generate/generate.py into a folder, so that transformers' model.generate decodes with specbound:
    specbound export-generate DIR."""

    out: str
    """The folder: a new one to name as custom_generate=DIR, or a model's, whose generate is then replaced."""
    policy: str = "auto"
    """Who drafts: auto, plain, a tree by name, a guarded fixed setting such as static:lookup0.5+exit4,width2, or a
    folder that specbound fit wrote, as hf:OWNER/NAME or a path of this machine."""
    exactness: str = "token"
    """What the output equals: token or bitwise."""
    overwrite: bool = False
    """Replace a custom_generate/generate.py that stands there."""

    def __post_init__(self) -> None:
        require_exactness(self.exactness)
        if not self.policy.isprintable():
            raise InputError(f"policy must be printable text, got {self.policy!r}")
        if not ("/" in self.policy or self.policy.startswith("hf:")):
            require_policy_name(self.policy, ("auto", "plain", "a folder of specbound fit", *TREE_NAMES))
