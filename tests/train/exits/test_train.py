"""Training exits: real runs of seconds on random models of three families, killed and whole, and what is refused."""

import csv
import errno
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.exits.trained import TrainedExits
from specbound.models.loading import load_model
from specbound_controller.errors import InputError
from specbound_controller.policy import StaticPolicy
from specbound_train.exits import training
from specbound_train.exits.choose import best_exit, candidates, chain_speedup, draft_cost
from specbound_train.exits.measure import Agreement
from specbound_train.exits.train import CURVE_FILE, ExitsSummary, train_exits
from tests.train.exits.conftest import FAMILIES, settings


class Killed(BaseException):
    """What no handler of ours catches, as little as a signal."""


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def whole(own_text: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExitsSummary]:
    """A run that nobody disturbed, with its summary."""
    out = tmp_path_factory.mktemp("whole") / "exits"
    lines: list[str] = []
    summary = train_exits(settings(own_text["llama"], out, compare=("no-state", "low-rank")), lines.append)
    assert "tokens/s" in lines[-1] and "minutes left" in lines[-1]
    return out, summary


@pytest.mark.parametrize("family", FAMILIES)
def test_exits_learn_to_agree_and_draft_what_is_accepted(
    family: str, own_text: dict[str, Path], tmp_path: Path
) -> None:
    """In every family the first choice agrees more often after training than the raw exit's, and outputs stay."""
    folder = own_text[family]
    weights = hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()
    summary = train_exits(settings(folder, tmp_path / "exits"))
    top1 = {row["variant"]: row["top1"] for row in summary.agreement if row["distance"] in (0, 1)}
    assert top1["main"] > top1["raw"] + 0.05
    assert hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest() == weights
    model = load_model(str(folder / "model")).model.double()
    exits = TrainedExits.from_pretrained(tmp_path / "exits")
    prompt = torch.tensor([[5, 9, 12, 7]])
    plain = SpecBoundDecoder(model).decode(prompt, max_new_tokens=60)
    drafted = SpecBoundDecoder(model, StaticPolicy((1,), 0.0, 2), exits=exits).decode(prompt, max_new_tokens=60)
    assert torch.equal(plain.sequences, drafted.sequences)
    assert drafted.stats.num_accepted > 0


def test_curve_and_card_say_what_was_reached(whole: tuple[Path, ExitsSummary]) -> None:
    out, summary = whole
    with (out / CURVE_FILE).open() as file:
        rows = list(csv.DictReader(file))
    assert {row["variant"] for row in rows} == {"main", "no-state", "low-rank", "raw"}
    positions = [int(row["positions"]) for row in rows]
    assert positions == sorted(positions) and positions[-1] == summary.num_positions >= 4000 > positions[0]
    exits, card = TrainedExits.from_pretrained(out), (out / "README.md").read_text()
    agreed = next(row for row in summary.agreement if row["variant"] == "main" and row["distance"] == 1)
    assert f"| main | 1 | 1 | {agreed['top1']:.3f} |" in card and exits.name == summary.name
    assert f"main{' ' * 15}   1         1   {agreed['top1']:.3f}" in str(summary)
    assert 1 in exits.vocabulary.ids  # the end token, however rare
    assert len(exits.vocabulary) == 40 and 0.5 < summary.coverage <= 1


@pytest.mark.parametrize("num_batches", [3, 12])
def test_a_run_that_was_killed_ends_with_the_same_files(
    own_text: dict[str, Path],
    whole: tuple[Path, ExitsSummary],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_batches: int,
) -> None:
    """Killed before the first checkpoint, and two steps after the second one."""
    config = settings(own_text["llama"], tmp_path / "exits", compare=("no-state", "low-rank"))
    real = training.padded

    def killing(pieces: Any) -> Any:
        killing.count += 1  # type: ignore[attr-defined]
        if killing.count > num_batches:  # type: ignore[attr-defined]
            raise Killed
        return real(pieces)

    killing.count = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(training, "padded", killing)
    with pytest.raises(Killed):
        train_exits(config)
    monkeypatch.setattr(training, "padded", real)
    with pytest.raises(InputError, match="loss must be 'label' to go on with"):
        train_exits(settings(own_text["llama"], tmp_path / "exits", compare=("no-state", "low-rank"), loss="kl"))
    train_exits(config)
    assert files(tmp_path / "exits") == files(whole[0])


@pytest.mark.parametrize("loss", ["kl", "acceptance", "mixed"])
def test_every_loss_lets_exits_agree_more(own_text: dict[str, Path], tmp_path: Path, loss: str) -> None:
    summary = train_exits(settings(own_text["llama"], tmp_path / "exits", loss=loss, draft_vocabulary=64))
    of = {row["variant"]: row for row in summary.agreement if row["distance"] in (0, 1)}
    assert of["main"]["top1"] > of["raw"]["top1"]


def test_auto_tries_the_shallower_half_and_keeps_one(own_text: dict[str, Path], tmp_path: Path) -> None:
    lines: list[str] = []
    summary = train_exits(settings(own_text["llama"], tmp_path / "exits", exit_layers="auto"), lines.append)
    assert lines[0] == "trying exit layers 1, 2" and f"exit layer {summary.exit_layers[0]}" in lines
    assert len(summary.exit_layers) == 1


def test_natural_text_is_learned_from_too(own_text: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat and then it ran . " * 60)
    config = settings(own_text["llama"], tmp_path / "exits", own_text=None, text=(str(path),), num_tokens=2000)
    assert train_exits(config).num_tokens > 300


def test_what_cannot_be_trained_is_refused_in_one_line(
    own_text: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(match: str, **changes: Any) -> None:
        with pytest.raises(InputError, match=match) as caught:
            train_exits(settings(own_text["llama"], tmp_path / "exits", **changes))
        assert "\n" not in str(caught.value)

    short = tmp_path / "short.txt"
    short.write_text("the cat")
    refused("text must be files of at least 40 tokens", text=(str(short),))
    refused("own_text must be a folder that specbound write left", own_text=str(tmp_path))
    refused("own_text must be of .* which another model wrote", own_text=str(own_text["qwen2"] / "text"))
    refused(r"exit_layer must be in \[1, 3\] for a 4-layer model, got 4", exit_layers=(4,))
    other = tmp_path / "other"
    shutil.copytree(own_text["llama"] / "text", other)
    for shard in (other / "text").iterdir():
        shard.unlink()
    refused("without any shard", own_text=str(other))
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps(manifest | {"prompts_hash": "0"}))
    refused("prompts of .* must be those that were answered", own_text=str(other))
    (tmp_path / "exits" / "mine.txt").write_text("mine")
    shutil.rmtree(tmp_path / "exits" / "unfinished", ignore_errors=True)
    refused("out must be empty or new")


def test_a_head_that_cannot_be_cut_is_refused(
    own_text: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hooked(*arguments: Any, **options: Any) -> Any:
        loaded = load_model(*arguments, **options)
        loaded.model.lm_head.register_forward_hook(lambda module, inputs, output: output)
        return loaded

    monkeypatch.setattr("specbound.models.loading.load_model", hooked)
    with pytest.raises(InputError, match="whose head has hooks or a forward of its own"):
        train_exits(settings(own_text["llama"], tmp_path / "exits"))


def test_a_full_disk_is_one_line_and_the_run_goes_on_later(
    own_text: dict[str, Path], whole: tuple[Path, ExitsSummary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(own_text["llama"], tmp_path / "exits", compare=("no-state", "low-rank"))

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(lightning.Trainer, "save_checkpoint", full)
        with pytest.raises(
            InputError, match="cannot be written: No space left on device; once it can be, run the same"
        ):
            train_exits(config)
    with monkeypatch.context() as patch:
        patch.setattr(TrainedExits, "save_pretrained", full)
        with pytest.raises(InputError, match="exits cannot be written to"):
            train_exits(config)
    train_exits(config)
    assert files(tmp_path / "exits") == files(whole[0])


def agreements(*rows: tuple[int, float]) -> Iterator[Agreement]:
    return (Agreement("main", layer, 1, top1, top1, top1, top1, 100) for layer, top1 in rows)


def test_choice_of_the_exit_weighs_agreement_against_cost() -> None:
    """By hand: 0.5 at a tenth of a step gives (1 + 0.5 + 0.25) / 1.2 with two drafts, the third costs more."""
    assert chain_speedup([0.5], 0.1) == pytest.approx(1.75 / 1.2)
    assert chain_speedup([0.0], 0.1) == 1.0
    found = list(agreements((1, 0.30), (2, 0.32), (8, 0.50)))
    assert best_exit(found, "main", {1: 0.05, 2: 0.08, 8: 0.3}) == 1
    assert best_exit(found, "main", {1: 0.05, 2: 0.05, 8: 0.05}) == 8
    assert draft_cost(2, 10, 100, 50, 500) == pytest.approx(250 / 1500)
    assert candidates(30) == (1, 2, 4, 8) and candidates(2) == (1,) and candidates(1) == (1,)
