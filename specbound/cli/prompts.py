"""`specbound prompts`: parse, make the prompts, write the file, say what is in it."""

from collections import Counter
from collections.abc import Sequence

from specbound.cli.parsing import parse_config
from specbound_profiling.prompts.training.config import PromptsConfig


def run(argv: Sequence[str]) -> None:
    config = parse_config(PromptsConfig, "prompts", argv)
    from pathlib import Path

    from specbound.results.report import check_destination
    from specbound_profiling.prompts.training.make import make_prompts, write_prompts

    check_destination(config.out)
    rows = make_prompts(config)
    write_prompts(rows, Path(config.out).expanduser())
    for name in ("task", "licence"):
        print(f"{name}: " + ", ".join(f"{count} {word}" for word, count in Counter(row[name] for row in rows).items()))
    print(f"{len(rows)} prompts: {config.out}")
