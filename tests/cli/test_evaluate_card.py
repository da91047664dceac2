"""`specbound evaluate --push-to-hub`: its tables in the model card of what was evaluated. A fake Hub, no network."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import specbound.models.hub as hub_module
from specbound.assets import demo_controller_dir
from specbound.evaluation.card import BEGIN, END
from specbound.evaluation.run import EvaluationResult
from specbound.models.hub import HubController
from specbound_controller.controller import Controller

Run = Callable[..., tuple[int, str, str]]
NAME = "someone/controller"


@pytest.fixture
def controller() -> Controller:
    return Controller.load(demo_controller_dir())


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, controller: Controller) -> Path:
    """The card of the demonstration's controller on a Hub that is a folder; somebody is logged in."""
    root = tmp_path / "hub"

    def upload_file(*, repo_id: str, path_or_fileobj: bytes, path_in_repo: str, **options: Any) -> str:
        (root / repo_id / path_in_repo).write_bytes(path_or_fileobj)
        return f"https://hub.test/{repo_id}"

    monkeypatch.setattr(hub_module, "check_push", lambda name: None)
    monkeypatch.setattr(hub_module, "snapshot_download", lambda name, **options: str(root / name))
    monkeypatch.setattr(hub_module.huggingface_hub, "upload_file", upload_file)
    costs = controller.config.costs["none"]
    monkeypatch.setattr("specbound.evaluation.run.choose_costs", lambda *arguments: (costs, "costs: its own"))
    HubController(controller).save_pretrained(root / NAME)
    return root / NAME / "README.md"


@pytest.fixture
def evaluate(run: Run, tmp_path: Path) -> Run:
    """The controller on one short prompt."""
    (tmp_path / "mine.jsonl").write_text('{"prompt": "def read("}\n')

    def call(*options: str) -> tuple[int, str, str]:
        size = ("--prompts", str(tmp_path / "mine.jsonl"), "--max-new-tokens", "6", "--rounds", "1")
        quick = ("--decision-prompts", "0", "--allow-noise", "--policy", "controller")
        return run("evaluate", *size, *quick, "--push-to-hub", NAME, *options)

    return call


def test_tables_stand_in_the_card_once_and_nothing_else_is_touched(evaluate: Run, card: Path) -> None:
    before = card.read_text()
    card.write_text(before.replace("## Limits", f"{BEGIN}\nold figures\n{END}\n\n## Limits"))
    code, _, err = evaluate()
    assert code == 0, err
    assert f"pushed: https://hub.test/{NAME}" in err
    text = card.read_text()
    section = text[text.index(BEGIN) : text.index(END) + len(END)]
    assert "### Speed" in section and "| controller |" in section and "old figures" not in text
    assert text.count(BEGIN) == 1 and text.replace(f"{section}\n\n", "") == before
    assert "from mine.jsonl" in section and str(card.parents[3]) not in text  # files without their folders


def nothing_measured(*arguments: Any) -> EvaluationResult:
    """In the place of the work, where only what becomes of a result is looked at."""
    return EvaluationResult({"name": "demo", "num_layers": 16, "fingerprint": "0" * 64}, notes=["a note"])


def test_a_card_without_figures_gets_them_before_its_limits(
    evaluate: Run, card: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("specbound.evaluation.run.evaluate", nothing_measured)
    before = card.read_text()
    assert evaluate()[0] == 0
    text = card.read_text()
    assert before.index("## Limits") == text.index(BEGIN) and text.index(END) < text.index("## Limits")


def test_another_controller_than_the_evaluated_one_is_refused_before_the_work(
    evaluate: Run, card: Path, controller: Controller
) -> None:
    mlp = controller.step_mlp
    HubController(replace(controller, step_mlp=replace(mlp, bias2=mlp.bias2 + 1))).save_pretrained(card.parent)
    before = card.read_text()
    code, out, err = evaluate()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "push_to_hub must name the controller or the exits that are evaluated, got 'someone/controller'" in err
    assert card.read_text() == before


def test_a_repository_of_something_else_is_refused(evaluate: Run, card: Path) -> None:
    (card.parent / "config.json").write_text('{"model_type": "llama"}')
    code, out, err = evaluate()
    assert (code, out) == (2, "") and "is neither a controller nor trained exits" in err


def test_figures_that_cannot_be_trusted_are_not_published(
    evaluate: Run, card: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = card.read_text()
    monkeypatch.setattr("specbound.evaluation.run.evaluate", nothing_measured)
    monkeypatch.setattr(EvaluationResult, "is_trustworthy", False)
    code, _, err = evaluate()
    assert code == 1 and "the model card is left as it was" in err
    assert card.read_text() == before
