"""`specbound convert`: parse, read the file, write the folder."""

from collections.abc import Sequence

from specbound.cli.parsing import parse_config
from specbound.models.convert_config import ConvertConfig


def run(argv: Sequence[str]) -> None:
    config = parse_config(ConvertConfig, "convert", with_options(argv))
    from pathlib import Path

    from specbound.cli.edge import set_up
    from specbound.models.gguf import gguf_path, read_gguf

    set_up()
    folder = Path(config.out).expanduser()
    config.require_new(folder)
    read_gguf(gguf_path(config.model), config.model).save(folder)
    print(f"{folder}: any command takes it as --model")


def with_options(argv: Sequence[str]) -> list[str]:
    """`FILE.gguf DIR` first means `--model FILE.gguf --out DIR`."""
    positional = []
    for argument in argv[:2]:
        if argument.startswith("-"):
            break
        positional.append(argument)
    named = zip(("--model", "--out"), positional, strict=False)
    return [*(part for pair in named for part in pair), *argv[len(positional) :]]
