"""A `custom_generate` folder of transformers that decodes with specbound. Knows no model."""

from pathlib import Path

from specbound import __version__
from specbound.generation.export_config import ExportConfig
from specbound.results.files import make_folder, write_file
from specbound_controller.errors import InputError

FOLDER, CODE, REQUIREMENTS = "custom_generate", "generate.py", "requirements.txt"

TEMPLATE = '''"""transformers' `generate` with specbound: the same output, in another time (specbound {version}).

    model.generate(**inputs, custom_generate=FOLDER, trust_remote_code=True)

In a model's own folder it takes the place of `generate` once that is loaded with trust_remote_code=True.
"""

from specbound.decoding.inside import generate_inside

POLICY = {policy!r}
EXACTNESS = {exactness!r}


def generate(inputs=None, generation_config=None, *, model, **arguments):
    """What `model.generate` with these arguments returns."""
    return generate_inside(
        model, POLICY, EXACTNESS, inputs=inputs, generation_config=generation_config, **arguments
    )
'''


def export_generate(config: ExportConfig) -> Path:
    """Writes code and requirements; gives the file of the code. Raises InputError where code of others stands there."""
    folder = Path(config.out).expanduser() / FOLDER
    code = folder / CODE
    if code.exists() and not config.overwrite:
        raise InputError(f"out must hold no {FOLDER}/{CODE} yet, got {code}: --overwrite replaces it")
    make_folder(folder)
    write_file(folder / REQUIREMENTS, f"specbound>={__version__}\n".encode())
    text = TEMPLATE.format(version=__version__, policy=config.policy, exactness=config.exactness)
    return write_file(code, text.encode("utf-8"))
