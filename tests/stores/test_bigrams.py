"""The table of a model's bigrams: what it holds, and that it is made once."""

from pathlib import Path

import numpy as np
import pytest
import torch

from specbound.stores import bigrams
from specbound.stores.bigrams import local_bigrams, make_bigrams
from specbound.stores.folder import read_store, write_store
from specbound_controller.errors import InputError
from tests.decoding.families import random_model


@torch.inference_mode()
def test_the_table_holds_the_models_best_tokens_after_each_token() -> None:
    model = random_model("llama", dtype=torch.float64)
    best = make_bigrams(model).best
    expected = model(torch.arange(97)[:, None]).logits[:, -1].topk(8).indices
    assert best.tolist() == expected.tolist()


@torch.inference_mode()
def test_a_token_that_begins_texts_is_put_before_each() -> None:
    model = random_model("llama", dtype=torch.float64)
    model.config.bos_token_id = 5
    ids = torch.stack((torch.full((97,), 5), torch.arange(97)), dim=1)
    assert make_bigrams(model).best.tolist() == model(ids).logits[:, -1].topk(8).indices.tolist()


def test_tokens_that_time_did_not_reach_have_no_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bigrams, "BATCH", 10)
    table = make_bigrams(random_model("llama"), most_seconds=-1.0)
    assert not table.row(3)
    assert (table.best == -1).all()


def test_a_table_is_made_once_for_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    model, lines = random_model("llama"), list[str]()
    first = local_bigrams(model, lines.append)
    monkeypatch.setattr(bigrams, "make_bigrams", lambda model: pytest.fail("made again"))
    assert local_bigrams(model, lines.append).best.tolist() == first.best.tolist()
    assert len(lines) == 1
    with pytest.raises(pytest.fail.Exception):
        local_bigrams(random_model("llama", seed=1), lines.append)


def test_a_store_is_read_back_and_another_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    write_store(folder, "bigrams", {"best": np.arange(6).reshape(3, 2)}, {"model_fingerprint": "x"})
    arrays, config = read_store(folder, "bigrams", ("best",))
    assert arrays["best"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert config["model_fingerprint"] == "x"
    write_store(folder, "bigrams", {"best": np.zeros((1, 1))}, {})  # replaced
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    for kind, names in (("own_text", ("best",)), ("bigrams", ("absent",))):
        with pytest.raises(InputError, match="store"):
            read_store(folder, kind, names)
    (folder / "best.npy").write_bytes(b"cut off")
    with pytest.raises(InputError, match="whole store"):
        read_store(folder, "bigrams", ("best",))


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="out must be"):
        write_store(tmp_path, "bigrams", {"best": np.zeros((1, 1))}, {})
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
