"""The config of `specbound costs`. Imports no torch, so that `--help` is fast."""

from dataclasses import dataclass
from pathlib import Path

from specbound.decoding.exactness import EXACTNESS_LEVELS
from specbound.exits.option import ExitsOption
from specbound.models.names import chosen_controller
from specbound_controller.compression import COMPRESSIONS
from specbound_controller.errors import InputError, require_at_least, require_one_of


@dataclass(frozen=True, slots=True)
class CostsConfig(ExitsOption):
    """Measures what the decoder's work costs on this machine: seconds of each kind of work, from timed steps."""

    model: str = "demo"
    """demo, smollm2, a folder, a Hugging Face name, or a GGUF file."""
    compression: tuple[str, ...] = ("none",)
    """How the weights are held, one table each: none, bf16, fp16, int8, nf4."""
    out: str | None = None
    """File for the tables, such as costs.json; any command takes it as --costs. Tables of other levels that it holds
    are kept."""
    log: str | None = None
    """Folder of a log that specbound profile wrote: measure with its exit layers and exactness, and put the tables into
    it in place of its own."""
    prompts: str = "demo"
    """Prompts whose steps are timed: demo, FILE.jsonl, or hf:NAME[:split[:column]]."""
    exactness: str = "auto"
    """Kernels that the steps run on: token, bitwise, or auto: the log's, else token for none, bitwise for all other
    levels, as specbound profile records them."""
    num_steps: int = 300
    """Decoding steps to time, at least 30."""
    max_seconds: float = 30.0
    """Most seconds for a table, above 0; on a slow or busy machine fewer steps are timed."""
    plot: str | None = None
    """PNG file for the residuals: predicted against measured seconds of every step, each by a table that was fitted
    without it."""
    check: bool = False
    """Compare each table with live decoding of other prompts, by kind of step: plain, fixed drafts, tested drafts,
    several exits, and the controller. Exit code 1 where one is off by more than 10 %. Takes minutes."""
    check_prompts: str = "demo:evaluate"
    """Prompts of the check, the same forms."""
    num_check_prompts: int = 12
    """How many of them, at least 1."""
    controller: str | None = None
    """Controller in the check: demo, a folder that train-controller wrote, or none. By default demo for the demo model
    only."""
    threads: int = 1
    """CPU threads; a table holds for this number of them."""
    seed: int = 0
    """Seed of the random decisions."""
    json: str | None = None
    """File for the results as JSON; - is standard output, where the text is left out."""

    def __post_init__(self) -> None:
        require_one_of(("auto", *EXACTNESS_LEVELS), exactness=self.exactness)
        require_at_least(30, num_steps=self.num_steps)
        require_at_least(0, seed=self.seed)
        require_at_least(1, num_check_prompts=self.num_check_prompts, threads=self.threads)
        if not self.compression or len(set(self.compression)) < len(self.compression):
            raise InputError(f"compression must name one or several levels, got {','.join(self.compression) or 'none'}")
        for level in self.compression:
            require_one_of(COMPRESSIONS, compression=level)
        if not self.max_seconds > 0:
            raise InputError(f"max_seconds must be above 0, got {self.max_seconds}")
        if self.out is None and self.log is None and not self.check:
            raise InputError("give --out FILE, --log DIR or --check: otherwise the tables go nowhere")
        for name in ("out", "plot"):
            value = getattr(self, name)
            if value is not None and (Path(value).expanduser().is_dir() or not _folder_of(value).is_dir()):
                raise InputError(f"{name} must name a file in a folder that exists, got {value}")

    @property
    def controller_name(self) -> str:
        """The controller of the check, its default resolved."""
        return chosen_controller(self.controller, self.model)


def _folder_of(path: str) -> Path:
    return Path(path).expanduser().resolve().parent
