"""The config of `specbound fit`. Imports no torch, so that `--help` is fast."""

from dataclasses import dataclass

from specbound.decoding.exactness import EXACTNESS_LEVELS
from specbound.exits.option import ExitsOption
from specbound_controller.compression import COMPRESSIONS
from specbound_controller.errors import InputError, require_at_least, require_one_of


@dataclass(frozen=True, slots=True)
class FitConfig(ExitsOption):
    """Finds what decodes this model fastest on this machine with the same output, and says how much faster: profiles,
    measures costs, races fixed settings and draft trees, trains a controller, and measures the best on prompts that
    nothing was chosen on. A run that is killed goes on when it is started again."""

    model: str
    """demo, smollm2, a folder, a Hugging Face name, or a GGUF file."""
    out: str
    """Folder for everything: SpecBoundDecoder.from_pretrained(model, OUT) and generate --policy OUT read it."""
    prompts: str | None = None
    """Prompts like those that the model will get: FILE.jsonl, or hf:NAME[:split[:column]]; from 60 on, more are better.
    By default 600 of many kinds that ship with the package (the demonstration's own for demo)."""
    minutes: float = 20.0
    """Minutes it is to take, at least 2: sizes are chosen by how fast the model is at that moment. Fast models need
    less; where the least that says anything takes longer, that is said before it begins."""
    compression: str = "none"
    """How the weights are held: none, bf16, fp16, int8 or nf4."""
    exactness: str = "auto"
    """What outputs equal: token, bitwise (plain decoding's at this level, for every compression), or auto: token for
    none, bitwise for all other levels."""
    max_new_tokens: int = 64
    """Most tokens per prompt, at least 16; fewer are taken where more do not fit into the time."""
    raw: bool = False
    """Hand prompts over as they stand. Otherwise they go through the chat template, where the tokenizer has one."""
    seed: int = 0
    """Seed of training and of the intervals."""
    threads: int = 1
    """CPU threads; what is found holds for this number of them."""
    json: str | None = None
    """File for the result as JSON; - is standard output, where the answer is left out."""

    def __post_init__(self) -> None:
        require_at_least(2, minutes=self.minutes)
        require_at_least(16, max_new_tokens=self.max_new_tokens)
        require_at_least(0, seed=self.seed)
        require_at_least(1, threads=self.threads)
        require_one_of(COMPRESSIONS, compression=self.compression)
        require_one_of(("auto", *EXACTNESS_LEVELS), exactness=self.exactness)
        if not self.out:
            raise InputError("out must name a folder, got none")

    @property
    def exactness_used(self) -> str:
        """The level of exactness, the default resolved."""
        if self.exactness != "auto":
            return self.exactness
        return "token" if self.compression == "none" else "bitwise"
