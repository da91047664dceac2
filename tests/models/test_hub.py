"""Controllers on the Hub: a fake of it in a folder, and no network."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.hub_mixin
import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import LocalEntryNotFoundError

import specbound.models.hub
from specbound.models.controllers import load_controller
from specbound.models.hub import HubController, check_push, is_hub_name, pull_controller, push_controller
from specbound_controller.controller import CONFIG_FILE, WEIGHTS_FILE, Controller
from specbound_controller.errors import InputError
from tests.controller.conftest import make_controller

NAME = "someone/controller"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder whose folders are the repositories."""
    root = tmp_path / "hub"

    def create_repo(self: HfApi, repo_id: str, **options: Any) -> SimpleNamespace:
        (root / repo_id).mkdir(parents=True, exist_ok=True)
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self: HfApi, *, repo_id: str, folder_path: Path, **options: Any) -> str:
        shutil.copytree(folder_path, root / repo_id, dirs_exist_ok=True)
        return f"https://hub.test/{repo_id}"

    def hf_hub_download(repo_id: str, filename: str, **options: Any) -> str:
        if not (root / repo_id / filename).exists():
            raise LocalEntryNotFoundError(f"Cannot find\nthe requested file {filename}")
        return str(root / repo_id / filename)

    def snapshot_download(repo_id: str, allow_patterns: list[str], **options: Any) -> str:
        assert allow_patterns == [CONFIG_FILE, WEIGHTS_FILE]
        return str(root / repo_id)

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    monkeypatch.setattr(huggingface_hub.hub_mixin, "hf_hub_download", hf_hub_download)
    monkeypatch.setattr(specbound.models.hub, "snapshot_download", snapshot_download)
    return root


@pytest.fixture(scope="module")
def controller() -> Controller:
    level = {"compression": "none", "num_prompts": 6, "controller_speedup": 1.2345, "gain_low": None}
    return make_controller(summary={"model": "demo", "num_prompts": 24, "levels": [level]})


def test_what_was_pushed_is_what_comes_back(hub: Path, controller: Controller) -> None:
    assert push_controller(controller, NAME) == f"https://hub.test/{NAME}"
    assert sorted(path.name for path in (hub / NAME).iterdir()) == ["README.md", CONFIG_FILE, WEIGHTS_FILE]
    for name in (NAME, f"hf:{NAME}"):
        loaded = load_controller(name)
        assert loaded is not None and loaded.config == controller.config
        assert (loaded.step_mlp.weight2 == controller.step_mlp.weight2).all()


def test_card_states_model_data_figures_and_limits(hub: Path, controller: Controller) -> None:
    push_controller(controller, NAME)
    card = (hub / NAME / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: specbound\n")
    for heading in ("## Model", "## Data", "## Figures", "## Limits"):
        assert heading in card
    assert controller.config.model_fingerprint[:64] in card and controller.config.prompts_hash in card
    assert "| none | 6 | – | – | 1.234 |" in card and "24 prompts" in card and "not measured" in card


def test_folder_round_trip_by_the_mixins_own_methods(controller: Controller, tmp_path: Path) -> None:
    HubController(controller).save_pretrained(tmp_path / "saved")
    assert Controller.load(tmp_path / "saved").config == controller.config
    assert HubController.from_pretrained(tmp_path / "saved").controller.config == controller.config


def test_offline_is_one_clear_line(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        InputError, match="neither a folder nor on the Hub: it was not fetched before, and HF_HUB_OFFLINE"
    ):
        pull_controller(NAME)
    with pytest.raises(InputError, match="push_to_hub needs the network, but HF_HUB_OFFLINE is set"):
        check_push(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(InputError, match="cannot be reached"):
        pull_controller(NAME)


def test_really_offline_library_says_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The library's own download, told to stay offline; nothing is faked but the cache."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set") as caught:
        pull_controller(NAME)
    assert "\n" not in str(caught.value)


def test_push_without_a_login_is_refused_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(InputError, match="hf auth login"):
        check_push(NAME)
    with pytest.raises(InputError, match="push_to_hub must be a Hub name"):
        check_push("not a name")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "token")
    check_push(NAME)


def test_push_that_fails_says_so_in_one_line(
    hub: Path, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: HfApi, **options: Any) -> str:
        raise OSError("no\nroute")

    monkeypatch.setattr(HfApi, "upload_folder", refuse)
    with pytest.raises(InputError, match="could not be pushed to 'someone/controller': no route"):
        push_controller(controller, NAME)


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"schema": 2}', "\xff", "[" * 100_000])
def test_repository_with_something_else_is_refused_in_one_line(hub: Path, controller: Controller, text: str) -> None:
    push_controller(controller, NAME)
    (hub / NAME / CONFIG_FILE).write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError) as caught:
        pull_controller(NAME)
    assert NAME in str(caught.value) and "\n" not in str(caught.value)


def test_damaged_weights_on_the_hub_are_refused(hub: Path, controller: Controller) -> None:
    push_controller(controller, NAME)
    content = json.loads((hub / NAME / CONFIG_FILE).read_text())
    assert content["weights_sha256"]
    (hub / NAME / WEIGHTS_FILE).write_bytes(b"\0" * 64)
    with pytest.raises(InputError, match="sha256"):
        pull_controller(NAME)


def test_names_that_mean_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert [is_hub_name(name) for name in ("a/b", "hf:b", "hf:a/b")] == [True] * 3
    others = ("demo", "runs", "runs/controller", "./a/b", "/a/b", "~/a", "a/b/c", "a/", "folder")
    assert [is_hub_name(name) for name in others] == [False] * len(others)
