"""The site's sources: notebooks are kept as they ran, and links of the checkout lead to pages of the site.

That the site builds without a warning is `make docs`, that notebooks run `make notebooks`.
"""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
MOST_BYTES = 200_000


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """`docs/hooks.py`, as mkdocs loads it."""
    pytest.importorskip("mkdocs", reason="the extra [docs] is not installed")
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("link", "source", "page", "expected"),
    [
        ("docs/api.md", "README.md", "index.md", "api.md"),
        ("CONTRIBUTING.md", "README.md", "index.md", "contributing.md"),
        ("docs/README.md", "CONTRIBUTING.md", "contributing.md", "contents.md"),
        ("../CONTRIBUTING.md", "docs/models.md", "models.md", "contributing.md"),
        ("../configs", "docs/README.md", "contents.md", "configs.md"),
        ("commands/fit.md", "docs/README.md", "contents.md", "commands/fit.md"),
        ("../trees.md", "docs/commands/fit.md", "commands/fit.md", "../trees.md"),
        ("fit.md", "docs/commands/demo.md", "commands/demo.md", "fit.md"),
        ("https://arxiv.org/abs/1", "README.md", "index.md", "https://arxiv.org/abs/1"),
    ],
)
def test_a_link_of_the_checkout_leads_to_its_page(
    hooks: ModuleType, link: str, source: str, page: str, expected: str
) -> None:
    assert hooks.moved_link(link, source, page) == expected


def test_a_model_card_is_shown_without_its_metadata(hooks: ModuleType) -> None:
    assert hooks.without_metadata("---\ntags:\n- a\n---\n# A model\n---\nb\n") == "# A model\n---\nb\n"


def outputs(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [output for cell in notebook["cells"] if cell["cell_type"] == "code" for output in cell["outputs"]]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_as_it_ran(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    notebook = json.loads(text)
    counts = [cell["execution_count"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert {output["output_type"] for output in outputs(notebook)} <= {"stream", "display_data", "execute_result"}
    assert not [output for output in outputs(notebook) if output.get("name") == "stderr"]
    assert len(text) < MOST_BYTES
    assert not re.search(r"/(home|root|tmp|work|Users)/", text)


def test_every_notebook_is_on_the_site() -> None:
    listed = re.findall(r"notebooks/(\w+)\.ipynb", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(listed) == [path.stem for path in NOTEBOOKS] != []
