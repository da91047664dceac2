"""The texts of the demonstration model: checked sources, splits by document, lawful prompts."""

import json
from pathlib import Path

import pytest

from specbound.assets import demo_model_dir, demo_prompts_path
from specbound_train.demo import corpus
from specbound_train.demo.corpus import KINDS, MAX_PROMPT_WORDS, Document, cut_prompts, load_documents

LAWFUL = {"public domain", "MIT", "CC-BY-4.0", "PSF-2.0"}


def document(kind: str, number: int, split: str) -> Document:
    texts = {
        "prose": "\n\n".join("Word " * 90 + str(paragraph) for paragraph in range(3)),
        "math": f"Question: What is {number} + 1?\nAnswer: {number + 1}",
        "code": "\n".join(f"def function_{f}(first, second):\n" + "    first = second + 1\n" * 20 for f in range(3)),
    }
    return Document(kind, f"{kind}{number}", texts[kind], f"source, {kind}{number}", "MIT", split)


def test_prompts_come_from_their_split_and_use_every_document_before_one_twice() -> None:
    documents = [document(kind, n, split) for kind in KINDS for split in corpus.SPLITS for n in range(4)]
    rows = cut_prompts(documents, "profile", num_per_kind=4, seed=0)
    assert [row["task"] for row in rows] == [kind for kind in KINDS for _ in range(4)]
    assert len({row["source"] for row in rows}) == 12
    assert all(len(row["prompt"].split()) <= MAX_PROMPT_WORDS for row in rows)
    assert rows == cut_prompts(documents, "profile", num_per_kind=4, seed=0)


def test_too_few_documents_are_named() -> None:
    with pytest.raises(ValueError, match="prose documents of split profile give 3 prompts, need 9"):
        cut_prompts([document("prose", 0, "profile")], "profile", num_per_kind=9, seed=0)


def test_a_source_that_is_missing_or_differs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {
        "kind": "math",
        "reader": "problems",
        "path": "problems.jsonl",
        "source": "problems",
        "revision": "commit 1",
        "get": "example.org",
        "licence": "MIT",
        "splits": ["train"],
        "sha256": "0" * 64,
    }
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"sources": [entry]}))
    monkeypatch.setattr(corpus, "MANIFEST", manifest)
    with pytest.raises(FileNotFoundError, match=r"problems.jsonl is missing; get it from example.org \(commit 1\)"):
        load_documents(tmp_path)
    (tmp_path / "problems.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    with pytest.raises(ValueError, match="must have sha256 000"):
        load_documents(tmp_path)
    entry["sha256"] = corpus.hashlib.sha256((tmp_path / "problems.jsonl").read_bytes()).hexdigest()
    manifest.write_text(json.dumps({"sources": [entry]}))
    (loaded,) = load_documents(tmp_path)
    assert (loaded.text, loaded.split) == ("Question: 1 + 1?\nAnswer: 2", "train")


def shipped(split: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in demo_prompts_path(split).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(("split", "least"), [("profile", 40), ("evaluate", 24)])
def test_shipped_prompts_are_short_lawful_and_of_every_kind(split: str, least: int) -> None:
    rows = shipped(split)
    assert len(rows) >= least
    assert {row["task"] for row in rows} == set(KINDS)
    for row in rows:
        assert len(row["prompt"].split()) <= MAX_PROMPT_WORDS
        assert row["licence"] in LAWFUL and row["source"]


def test_shipped_prompts_of_the_two_splits_share_no_source_document() -> None:
    assert not {row["source"] for row in shipped("profile")} & {row["source"] for row in shipped("evaluate")}


def test_package_data_stays_small() -> None:
    files = [path for path in demo_model_dir().parent.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 32 * 2**20
