"""The texts of the demonstration model: sources checked against a manifest, split by document, cut into prompts.

Knows nothing about tokens or models.
"""

import hashlib
import json
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KINDS = ("prose", "math", "code")
SPLITS = ("train", "profile", "evaluate")
MANIFEST = Path(__file__).with_name("text_manifest.json")
MAX_PROMPT_WORDS = 200


@dataclass(frozen=True, slots=True)
class Document:
    """One document of the corpus; a split never cuts through one."""

    kind: str
    """One of `KINDS`."""
    name: str
    """Title, problem number or module path: unique within its kind."""
    text: str
    source: str
    """Source and revision, as the manifest states them."""
    licence: str
    split: str
    """One of `SPLITS`: `train` is what the model sees, the other two are held out."""


def tree_digest(files: list[Path], root: Path) -> str:
    """Sha256 over the sorted lines `sha256  relative/path` of some files under `root`."""
    lines = sorted(f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.relative_to(root).as_posix()}" for f in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def python_sources(root: Path, excluded: list[str]) -> list[Path]:
    """The modules of a standard library, without the folders and files that the manifest excludes."""
    return sorted(
        path
        for path in root.rglob("*.py")
        if not any(part in excluded for part in path.relative_to(root).parts)
        and not path.name.startswith("_sysconfigdata")
    )


def load_documents(text_dir: Path) -> list[Document]:
    """Reads every source of the manifest under `text_dir` and checks its sha256.

    Raises:
        FileNotFoundError: a source is missing; the message says where to get it.
        ValueError: a source differs from the revision that the manifest names.
    """
    documents: list[Document] = []
    for entry in json.loads(MANIFEST.read_text())["sources"]:
        path = text_dir / entry["path"]
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing; get it from {entry['get']} ({entry['revision']})")
        files = python_sources(path, entry["exclude"]) if path.is_dir() else [path]
        digest = tree_digest(files, path) if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != entry["sha256"]:
            raise ValueError(f"{path} must have sha256 {entry['sha256']} ({entry['revision']}), got {digest}")
        documents.extend(_READERS[entry["reader"]](path, files, entry))
    return documents


def _read_books(path: Path, files: list[Path], entry: dict[str, Any]) -> list[Document]:
    books = re.split(r"(?m)^(?=# Title: )", path.read_text(encoding="utf-8"))
    documents = []
    for book in filter(str.strip, books):
        title = book.splitlines()[0].removeprefix("# Title: ").strip()
        split = next((s for s in ("profile", "evaluate") if title in entry[s]), "train")
        body = re.sub(r"(?ms)\A.*?^-------\n", "", book, count=1)
        documents.append(_document(entry, title, re.sub(r"\n{3,}", "\n\n", body).strip(), split))
    return documents


def _read_problems(path: Path, files: list[Path], entry: dict[str, Any]) -> list[Document]:
    documents = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        problem = json.loads(line)
        text = f"Question: {problem['question'].strip()}\nAnswer: {problem['answer'].strip()}"
        split = entry["splits"][number % len(entry["splits"])]
        documents.append(_document(entry, f"{path.name}:{number + 1}", text, split))
    return documents


def _read_python(path: Path, files: list[Path], entry: dict[str, Any]) -> list[Document]:
    documents = []
    for file in files:
        name = file.relative_to(path).as_posix()
        share = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 100
        split = "profile" if share < 6 else "evaluate" if share < 12 else "train"
        text = file.read_bytes().decode("utf-8", errors="replace").strip()
        if text:
            documents.append(_document(entry, name, text, split))
    return documents


def _document(entry: dict[str, Any], name: str, text: str, split: str) -> Document:
    source = f"{entry['source']}, {entry['revision']}, {name}"
    return Document(entry["kind"], name, text, source, entry["licence"], split)


_READERS = {"books": _read_books, "problems": _read_problems, "python": _read_python}


def cut_prompts(documents: list[Document], split: str, num_per_kind: int, seed: int) -> list[dict[str, str]]:
    """Prompts from held-out documents: one to a few per document, `num_per_kind` of each kind.

    A prose prompt starts at a paragraph, a mathematics prompt is the whole question, a code prompt starts at a
    top-level definition. Returns rows `{"prompt_id", "task", "prompt", "source", "licence"}`.
    """
    rng = random.Random(seed)
    rows = []
    for kind in KINDS:
        held_out = [d for d in documents if d.kind == kind and d.split == split]
        rng.shuffle(held_out)
        pools = [_excerpts(document, rng) for document in held_out]
        chosen: list[tuple[Document, str]] = []
        while len(chosen) < num_per_kind and any(pools):
            for document, pool in zip(held_out, pools, strict=True):
                if pool and len(chosen) < num_per_kind:
                    chosen.append((document, pool.pop()))
        if len(chosen) < num_per_kind:
            raise ValueError(f"{kind} documents of split {split} give {len(chosen)} prompts, need {num_per_kind}")
        for number, (document, prompt) in enumerate(chosen):
            rows.append(
                {
                    "prompt_id": f"{split}-{kind}-{number:02d}",
                    "task": kind,
                    "prompt": prompt,
                    "source": document.source,
                    "licence": document.licence,
                }
            )
    return rows


def _excerpts(document: Document, rng: random.Random) -> list[str]:
    """Every usable prompt of one document, shuffled."""
    if document.kind == "math":
        return [document.text.split("\nAnswer:")[0] + "\nAnswer:"]
    if document.kind == "prose":
        paragraphs = [p.strip() for p in document.text.split("\n\n")]
        excerpts = [" ".join(p.split()[:70]) for p in paragraphs if len(p.split()) >= 80 and p[0].isalpha()]
    else:
        blocks = re.split(r"(?m)^(?=def |class )", document.text)[1:]
        lines = [block.split("\n") for block in blocks]
        excerpts = ["\n".join(block[:10]) + "\n" for block in lines if len(block) >= 16]
        excerpts = [e for e in excerpts if len(e) <= 500 and len(e.split()) >= 20]
    rng.shuffle(excerpts)
    return [e for e in excerpts if len(e.split()) <= MAX_PROMPT_WORDS]
