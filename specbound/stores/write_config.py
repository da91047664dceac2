"""The config of `specbound write`. Imports no torch, so that `--help` is fast."""

from dataclasses import dataclass

from specbound_controller.compression import COMPRESSIONS
from specbound_controller.errors import InputError, require_at_least, require_one_of


@dataclass(frozen=True, slots=True)
class WriteConfig:
    """Lets a model answer prompts in batches, and counts what it tends to write. The counts are a source of draft
    trees; the text is what exits may learn from."""

    out: str
    """Folder for the text and the counts; one that holds an unfinished run of the same settings is gone on with."""
    prompts: str
    """Prompts to answer, none that anything is evaluated on: demo, FILE.jsonl, or hf:NAME[:split[:column]]."""
    model: str = "demo"
    """demo, smollm2, a folder, a Hugging Face name, or a GGUF file."""
    num_tokens: int = 100_000
    """Tokens to write, at least 1. Prompts are answered greedily first, then sampled, again and again."""
    max_new_tokens: int = 128
    """Most tokens of an answer, at least 2."""
    batch: int = 48
    """Answers written side by side, at least 1: the more, the less a token costs."""
    temperature: float = 0.7
    """Of sampled answers; above 0."""
    compression: str = "none"
    """How the weights are held: none, bf16, fp16, int8 or nf4."""
    most_bytes: int = 20_000_000
    """Size of the counts, at least 1000; the rarest contexts are left out beyond it."""
    raw: bool = False
    """Take prompts as they stand, also where the tokenizer has a chat template."""
    seed: int = 0
    """Order of the prompts and seed of sampling."""
    threads: int = 1
    """CPU threads."""
    json: str | None = None
    """File for the figures as JSON; - is standard output, where the text is left out."""

    def __post_init__(self) -> None:
        require_at_least(1, num_tokens=self.num_tokens, batch=self.batch, threads=self.threads)
        require_at_least(2, max_new_tokens=self.max_new_tokens)
        require_at_least(1000, most_bytes=self.most_bytes)
        require_at_least(0, seed=self.seed)
        require_one_of(COMPRESSIONS, compression=self.compression)
        if not self.temperature > 0:
            raise InputError(f"temperature must be > 0, got {self.temperature}")
