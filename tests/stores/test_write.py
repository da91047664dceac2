"""Text that a model writes itself: the model's own answers, whole after a kill, counted, and refused for others."""

import json
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from specbound.models.loading import load_model
from specbound.stores import write as writing
from specbound.stores.own_text import load_own_text
from specbound.stores.write import batches, read_shard, read_text, write
from specbound.stores.write_config import WriteConfig
from specbound_controller.errors import InputError
from specbound_controller.fingerprint import same_model
from specbound_profiling.prompts.files import load_prompts

TEXTS = ("def read(", "Once upon a time there was", "Two and two", "import os", "The king said", "for i in")


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": text, "prompt_id": f"p{i}"}) + "\n" for i, text in enumerate(TEXTS)))
    return path


def config(prompts: Path, out: Path, **settings: object) -> WriteConfig:
    return WriteConfig(
        **{"out": str(out), "prompts": str(prompts), "num_tokens": 60, "max_new_tokens": 8, "batch": 2, **settings}
    )  # type: ignore[arg-type]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_greedy_answers_are_the_models_own(prompts: Path, tmp_path: Path) -> None:
    written = write(config(prompts, tmp_path / "out", num_tokens=40))
    loaded = load_model("demo")
    by_text = {prompt.prompt_id: prompt.text for prompt in load_prompts(str(prompts))}
    rows = pq.read_table(sorted((tmp_path / "out" / "text").iterdir())[0]).to_pylist()
    assert not any(row["is_sampled"] for row in rows)
    for row in rows:
        ids = loaded.tokenizer(by_text[row["prompt_id"]], return_tensors="pt")["input_ids"]
        expected = loaded.model.generate(ids, do_sample=False, max_new_tokens=8)[0, ids.shape[1] :].tolist()
        assert row["tokens"] == expected
    assert written.num_tokens >= 40
    assert written.num_tokens == sum(map(len, read_text(tmp_path / "out")))


def test_a_run_that_was_killed_ends_with_the_same_files(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    write(config(prompts, whole))
    shards = []

    def die(path: Path, *arguments: object) -> None:
        if len(shards) == 2:
            raise KeyboardInterrupt
        shards.append(path)
        make(path, *arguments)

    make = writing._write_shard
    monkeypatch.setattr(writing, "_write_shard", die)
    with pytest.raises(KeyboardInterrupt):
        write(config(prompts, killed))
    monkeypatch.undo()
    assert not (killed / "own_text").exists()
    again = write(config(prompts, killed))
    assert again.num_new_tokens < again.num_tokens
    assert files(killed) == files(whole)


def test_later_passes_are_sampled_and_each_has_its_order(prompts: Path, tmp_path: Path) -> None:
    settings = config(prompts, tmp_path / "out", batch=4)
    plan = batches([5, 1, 4, 2, 3, 6], settings)
    first, second = [next(plan) for _ in range(2)], [next(plan) for _ in range(2)]
    assert [is_sampled for _, is_sampled in first + second] == [False, False, True, True]
    for half in (first, second):
        assert sorted(index for batch, _ in half for index in batch) == list(range(6))


def test_counts_are_of_the_text_and_of_this_model(prompts: Path, tmp_path: Path) -> None:
    write(config(prompts, tmp_path / "out"))
    fingerprint = json.loads((tmp_path / "out" / "manifest.json").read_text())["model_fingerprint"]
    store, rates = load_own_text(tmp_path / "out", fingerprint)
    assert set(rates) == {"context", "bigrams", "own_text"}
    texts = list(read_text(tmp_path / "out"))
    followed = {b for text in texts for a, b in pairwise(text) if a == texts[0][0]}
    assert {token for token, _ in store.followers(texts[0][:1])} <= followed
    other = "0" * 64
    assert not same_model(other, fingerprint)
    with pytest.raises(InputError, match="own text must be of the model"):
        load_own_text(tmp_path / "out", other)


def test_other_settings_and_evaluation_prompts_are_refused(prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(config(prompts, out, num_tokens=10))
    with pytest.raises(InputError, match="max_new_tokens must be 8"):
        write(config(prompts, out, max_new_tokens=9))
    write(config(prompts, out, num_tokens=40))  # more of the same
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(InputError, match="out must be a new folder"):
        write(config(prompts, tmp_path / "thesis"))
    for spec in ("demo:evaluate", f"{prompts}:evaluation"):
        with pytest.raises(InputError, match="evaluated on"):
            write(WriteConfig(out=str(tmp_path / "none"), prompts=spec))
    assert not (tmp_path / "none").exists()
    shard = next((out / "text").iterdir())
    shard.write_bytes(b"cut off")
    with pytest.raises(InputError, match="no shard of text"):
        read_shard(shard)


def test_sampling_leaves_the_callers_random_state_alone(prompts: Path, tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    write(config(prompts, tmp_path / "out", num_tokens=90))
    assert torch.rand(1) == expected
