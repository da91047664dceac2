"""A set of trained exits on disk and on the Hub."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

import specbound.exits.hub
import specbound.models.hub
from specbound.exits.hub import exits_folder, push_exits
from specbound.exits.trained import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE, TrainedExits
from specbound_controller.errors import InputError
from tests.decoding.families import random_model
from tests.decoding.random_exits import random_exits


@pytest.fixture(scope="module")
def exits() -> TrainedExits:
    return random_exits(random_model("llama", 0), (1, 3), num_tokens=40)


def test_what_was_saved_is_what_comes_back(exits: TrainedExits, tmp_path: Path) -> None:
    exits.save_pretrained(tmp_path)
    back = TrainedExits.from_pretrained(tmp_path)
    assert back.name == exits.name and back.config == exits.config and back.vocabulary == exits.vocabulary
    for layer in (1, 3):
        for first, second in zip(
            back.set.modules[layer].parameters(), exits.set.modules[layer].parameters(), strict=True
        ):
            assert torch.equal(first, second)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted((WEIGHTS_FILE, CONFIG_FILE, CARD_FILE))


def test_weights_on_disk_are_16_bits(exits: TrainedExits, tmp_path: Path) -> None:
    exits.save_pretrained(tmp_path)
    num_weights = sum(p.numel() for module in exits.set.modules.values() for p in module.parameters())
    assert (tmp_path / WEIGHTS_FILE).stat().st_size < 2 * num_weights + 8 * 40 + 8000


def test_other_weights_are_another_set() -> None:
    model = random_model("llama", 0)
    assert random_exits(model, seed=1).name != random_exits(model, seed=2).name


def test_damaged_files_are_refused_in_one_line(exits: TrainedExits, tmp_path: Path) -> None:
    def refused(match: str) -> None:
        with pytest.raises(InputError, match=match) as caught:
            TrainedExits.from_pretrained(tmp_path)
        assert "\\n" not in str(caught.value)

    refused("must be a folder that specbound train-exits wrote")
    exits.save_pretrained(tmp_path)
    weights, config = (tmp_path / WEIGHTS_FILE), (tmp_path / CONFIG_FILE)
    content = json.loads(config.read_text())
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    refused("is not the file that config.json names")
    exits.save_pretrained(tmp_path)
    for change, match in (
        ({"schema": 2}, "schema must be 1"),
        ({"exit_layers": [4]}, "exit_layers must ascend within"),
        ({"exit_layers": [2]}, "holds no exits"),
        ({"shape": content["shape"] | {"kind": "other"}}, "kind must be one of mlp, low_rank"),
        ({"shape": content["shape"] | {"width": 25}}, "holds no exits"),
        ({"vocab_size": 20}, "ids below 20"),
        ({"unknown": 1}, "is not the config of trained exits"),
    ):
        config.write_text(json.dumps(content | change))
        refused(match)
    weights.unlink()
    config.write_text(json.dumps(content))
    refused("cannot be read")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder whose folders are the repositories."""
    root = tmp_path / "hub"

    def upload_folder(*, repo_id: str, folder_path: Path, allow_patterns: list[str], **options: Any) -> str:
        (root / repo_id).mkdir(parents=True)
        for name in allow_patterns:
            shutil.copy(folder_path / name, root / repo_id / name)
        return f"https://hub.test/{repo_id}"

    def snapshot_download(repo_id: str, **options: Any) -> str:
        if not (root / repo_id).exists():
            raise LocalEntryNotFoundError("Cannot\\nfind it")
        return str(root / repo_id)

    monkeypatch.setattr(specbound.exits.hub.huggingface_hub, "create_repo", lambda *i, **o: None)
    monkeypatch.setattr(specbound.exits.hub.huggingface_hub, "upload_folder", upload_folder)
    monkeypatch.setattr(specbound.models.hub, "snapshot_download", snapshot_download)
    return root


def test_what_was_pushed_can_be_asked_for_by_name(exits: TrainedExits, hub: Path, tmp_path: Path) -> None:
    exits.save_pretrained(tmp_path / "own")
    (tmp_path / "own" / "unfinished").mkdir()
    assert push_exits(tmp_path / "own", "someone/exits") == "https://hub.test/someone/exits"
    assert TrainedExits.from_pretrained("someone/exits").name == exits.name
    with pytest.raises(InputError, match="neither a folder nor on the Hub"):
        TrainedExits.from_pretrained("someone/else")


def test_exits_that_do_not_ship_say_how_to_make_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(specbound.exits.hub, "smollm2_exits_dir", lambda: tmp_path / "none")
    with pytest.raises(InputError, match="train them with specbound train-exits --model smollm2"):
        exits_folder("smollm2")
