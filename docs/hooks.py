"""What makes a site of pages that are written for GitHub: files outside of this folder become pages, links follow.

Called by mkdocs (`make docs`). Knows no page's text; two pages are made here, the shipped configs and the reference of
all public names.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import specbound

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {
    "README.md": "index.md",
    "docs/README.md": "contents.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "LICENSE": "license.md",
    "specbound/assets/demo_model/README.md": "demo-model.md",
}
"""File of the checkout -> the page that it is."""
CONFIGS = {"configs": "configs.md"}
"""Folder of the checkout -> the page that shows its files."""
PAGE_OF = OUTSIDE | CONFIGS
SOURCE_OF = {page: source for source, page in OUTSIDE.items()}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages whose source is elsewhere, and those that are made."""
    readme = files.get_file_from_path("README.md")
    assert readme is not None
    files.remove(readme)  # the checkout's own is the first page
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=page_of(ROOT / source)))
    files.append(File.generated(config, CONFIGS["configs"], content=configs_page()))
    files.append(File.generated(config, "reference.md", content=reference_page()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to where their targets stand on the site, and code blocks without words that mean something to tests."""
    where = page.file.src_uri
    source = SOURCE_OF.get(where, f"docs/{where}")
    moved = re.sub(r"(?<=\]\()([^)\s#]+)", lambda link: moved_link(link[1], source, where), markdown)
    return re.sub(r"(?m)^```python slow$", "```python", moved)


def moved_link(link: str, source: str, page: str) -> str:
    """A link of a file of the checkout as a link of the page that shows it; others as they are."""
    if re.match(r"[a-z]+:", link):
        return link
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    target = PAGE_OF.get(target, target.removeprefix("docs/"))
    return posixpath.relpath(target, posixpath.dirname(page) or ".")


def page_of(path: Path) -> str:
    """A file as a page; plain text as it stands."""
    text = path.read_text("utf-8")
    return without_metadata(text) if path.suffix == ".md" else f"# {path.name.capitalize()}\n\n```text\n{text}\n```\n"


def without_metadata(text: str) -> str:
    """A model card without its block of metadata for the Hub, which is none of a page."""
    return re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.S)


def configs_page() -> str:
    """Every shipped YAML file."""
    parts = ["# Shipped settings", "Each is for one command: `specbound COMMAND --config FILE`."]
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        parts.append(f"## {path.name}\n\n```yaml\n{path.read_text('utf-8').rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def reference_page() -> str:
    """A directive of mkdocstrings for every public name, in the order of the package's own list."""
    parts = [
        "# Reference",
        "Every public name, from its docstring; [Python API](api.md) has an example of each. What takes a config takes "
        "the options of the command of the same name.",
    ]
    for name, home in specbound._HOMES.items():
        parts += [f"## `{name}`", f"::: {home.replace(':', '.')}"]
    return "\n\n".join(parts) + "\n"
