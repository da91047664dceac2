"""Executes the notebooks of docs/notebooks and keeps what they show: `python -m tests.notebooks [NAME ...]`.

Progress and warnings are left out of what is kept, and with them paths of the machine. `make notebooks` runs them and
keeps nothing.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "notebooks"
MOST_SECONDS = 1800
"""For one cell."""
METADATA = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}


def keep(path: Path) -> None:
    """Runs a notebook and writes it with its outputs. Raises CellExecutionError, and leaves the file as it was."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=MOST_SECONDS, kernel_name="python3", record_timing=False).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata = nbformat.from_dict(METADATA)
    nbformat.write(notebook, path)


def main(names: Sequence[str]) -> None:
    for path in [FOLDER / f"{name}.ipynb" for name in names] or sorted(FOLDER.glob("*.ipynb")):
        keep(path)
        print(path.name)


if __name__ == "__main__":
    main(sys.argv[1:])
