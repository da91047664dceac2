"""`specbound export-generate`: parse, write the folder, say how it is used."""

from collections.abc import Sequence

from specbound.cli.parsing import parse_config
from specbound.generation.export_config import ExportConfig


def run(argv: Sequence[str]) -> None:
    options = list(argv)
    if options and not options[0].startswith("-"):  # `DIR` first means `--out DIR`
        options.insert(0, "--out")
    config = parse_config(ExportConfig, "export-generate", options)
    from specbound.generation.export import export_generate

    code = export_generate(config)
    print(f"{code}: model.generate(**inputs, custom_generate={str(code.parent.parent)!r}, trust_remote_code=True)")
