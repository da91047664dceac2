"""The config of `specbound prompts`."""

from dataclasses import dataclass

from specbound_controller.errors import require_at_least


@dataclass(frozen=True, slots=True)
class PromptsConfig:
    """Makes training prompts of many kinds from a folder of free texts: questions as they stand, and passages to
    summarise, continue, explain, translate, extract from, rewrite and answer questions on. Source and licence stand on
    each line. The same folder, number and seed give the same file."""

    sources: str
    """Folder, searched with all its folders, of any of: GSM8K's train.jsonl, mbpp.jsonl, self-instruct's
    seed_tasks.jsonl and user_oriented_instructions.jsonl, WikiText's text files, classic-books-markdown, Shakespeare's
    input.txt. docs/commands/prompts.md names them."""
    out: str
    """JSON-lines file to write; profile takes it as --prompts."""
    num_prompts: int = 12000
    """How many, evenly over the kinds as far as the sources reach, at least 1."""
    seed: int = 0
    """Seed of the choice."""

    def __post_init__(self) -> None:
        require_at_least(1, num_prompts=self.num_prompts)
        require_at_least(0, seed=self.seed)
