"""The whole of `fit` on a random model of 4 layers: every stage, killed and gone on with, to a decoder that works."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from specbound import SpecBoundDecoder, StaticPolicy, load_model
from specbound.cli.main import main
from specbound.fit import run as stages
from specbound.fit.config import FitConfig
from specbound.fitted import Fitted
from specbound.models.fingerprint import model_fingerprint
from specbound.models.loading import LoadedModel
from specbound.models.names import FITTED_FILE
from specbound_controller.errors import InputError
from specbound_controller.policy_names import reads_exits
from specbound_profiling.costs.measure import measure_costs
from specbound_profiling.log.manifest import write_costs
from tests.cli.conftest import made_up_costs
from tests.decoding.random_exits import random_exits

pytestmark = pytest.mark.usefixtures("short_search", "short_stages")
WORDS = ("the cat sat on", "a dog ran under the", "one two and then", "def return ( )", "it was that", "the mat and a")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    rows = [
        {"prompt": f"{text} {extra} {last}", "task": extra}
        for text in WORDS
        for extra in ("tree", "two", "dog")
        for last in ("mat", "cat", "on", "it")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def short_stages() -> Iterator[None]:
    """Few prompts, short measurements, two settings in the race; nothing is kept for the user."""
    least = {"profile": (8, 8), "race": (2, 2), "final": (2, 2), "measure": (5, 5)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("specbound.fit.budget.BOUNDS", least)
        patch.setattr("specbound.fit.run.EPOCHS", 1)
        patch.setattr("specbound.evaluation.best_static.NUM_RACED", 2)
        patch.setattr("specbound.evaluation.best_tree.FREE_ENTRANTS", ("tree3",))
        patch.setattr("specbound.evaluation.best_tree.NUM_EXITS", 0)
        patch.setattr("specbound.stores.trees.local_bigrams", lambda model, say: None)
        short = partial(measure_costs, max_seconds=2.0)
        patch.setattr("specbound_profiling.recording.profile.measure_costs", short)
        yield


def options(model: Path, prompts: Path, out: Path) -> tuple[str, ...]:
    return (
        *("fit", "--model", str(model), "--prompts", str(prompts), "--out", str(out)),
        *("--max-new-tokens", "16", "--minutes", "2"),
    )


def test_killed_run_goes_on_and_ends_with_a_folder_that_decodes(
    tiny_model_dir: Path,
    prompts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "fit"
    with monkeypatch.context() as patch:
        patch.setattr(stages._Run, "_finalists", lambda self: 1 / 0)
        assert main(options(tiny_model_dir, prompts, out)) == 1
    notes = json.loads((out / "fit.json").read_text())
    assert {"profile", "race", "train"} <= set(notes) and "final" not in notes and not (out / FITTED_FILE).exists()
    capsys.readouterr()
    with monkeypatch.context() as patch:  # none of what has ended is done again
        for stage in ("profile", "race", "train_controller", "probe_speed"):
            patch.setattr(stages, stage, lambda *_: 1 / 0)
        assert main((*options(tiny_model_dir, prompts, out), "--json", str(tmp_path / "fit.json"))) == 0
    text = capsys.readouterr().out
    answer = json.loads((tmp_path / "fit.json").read_text())["answer"]
    assert text.startswith(answer) and "next: specbound generate" in text
    fitted = Fitted.read(out)
    assert fitted is not None and fitted.answer == " ".join(answer.splitlines())
    assert answer.splitlines()[0] in (out / "README.md").read_text()

    loaded = load_model(str(tiny_model_dir))
    decoder = SpecBoundDecoder.from_pretrained(loaded.model, out)
    ids, plain = (
        each.generate("the cat sat on", tokenizer=loaded.tokenizer, max_new_tokens=12).tolist()
        for each in (decoder, SpecBoundDecoder(loaded.model))
    )
    assert ids == plain
    with pytest.raises(InputError, match="seed 0, got 1"):
        config = FitConfig(str(tiny_model_dir), str(out), str(prompts), 2, max_new_tokens=16, seed=1)
        stages.fit(config, lambda line: None)


def test_other_folders_are_left_alone(tiny_model_dir: Path, prompts: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert main(options(tiny_model_dir, prompts, tmp_path)) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_stages_that_find_nothing_end_with_plain_decoding(
    tiny_model_dir: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages._Run, "_finalists", lambda self: {})
    monkeypatch.setattr(stages._Run, "race", lambda self: None)
    monkeypatch.setattr(stages, "WORTH_IT", float("inf"))
    config = FitConfig(str(tiny_model_dir), str(tmp_path / "out"), str(prompts), 2, max_new_tokens=16)
    result = stages.fit(config, lambda line: None)
    assert result.answer.policy == "plain" and "nothing here pays; use plain decoding" in str(result.answer)
    decoder = SpecBoundDecoder.from_pretrained(load_model(str(tiny_model_dir)).model, tmp_path / "out")
    assert decoder.policy.decide(None).w_max == 0


def test_trained_exits_race_and_the_answer_says_what_they_brought(
    tiny_model_dir: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("specbound.evaluation.best_tree.NUM_EXITS", 1)
    monkeypatch.setattr("specbound.evaluation.best_tree.EXIT_SIZES", (7,))
    monkeypatch.setattr(stages, "WORTH_IT", float("inf"))
    model = load_model(str(tiny_model_dir)).model
    exits, others = random_exits(model, (1,), 1), random_exits(model, (1,), 2)
    exits.save_pretrained(tmp_path / "exits")
    others.save_pretrained(tmp_path / "others")
    config = FitConfig(
        str(tiny_model_dir), str(tmp_path / "fit"), str(prompts), 2, max_new_tokens=16, exits=str(tmp_path / "exits")
    )
    result = stages.fit(config, lambda line: None)
    assert "The trained exits" in str(result.answer) and " without, in the last race." in str(result.answer)
    assert any(map(reads_exits, set(result.values["final"]) - {"plain"}))
    assert not all(map(reads_exits, set(result.values["final"]) - {"plain"}))
    with pytest.raises(InputError, match=f"exits {exits.name}, got {others.name}"):
        stages.fit(replace(config, exits=str(tmp_path / "others")), lambda line: None)


def test_folder_that_plays_trained_exits_asks_for_them(tiny_model_dir: Path, tmp_path: Path) -> None:
    loaded = load_model(str(tiny_model_dir))
    exits, others = random_exits(loaded.model, (1,), 1), random_exits(loaded.model, (1,), 2)
    fingerprint, policy = model_fingerprint(loaded.model), "static:exit1,width3"
    Fitted(policy, "none", "token", fingerprint, exits.config.num_layers, "in words", exits.name).write(tmp_path)
    for given, got in ((None, "none"), (others, others.name)):
        with pytest.raises(InputError, match=f"fitted with the trained exits {exits.name}, got {got}"):
            SpecBoundDecoder.from_pretrained(loaded.model, tmp_path, exits=given)
    write_costs(tmp_path, {"none": made_up_costs(loaded)})
    priced: list[LoadedModel] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("specbound.fitted.required_costs", lambda loaded, *_: (priced.append(loaded), ""))
        patch.setattr("specbound.fitted.named", lambda *_: StaticPolicy((1,), 0.0, 3))
        decoder = SpecBoundDecoder.from_pretrained(loaded.model, tmp_path, exits=exits)
        output = decoder.decode("the cat sat on", tokenizer=loaded.tokenizer, max_new_tokens=12)
    assert priced[0].exits is exits and output.stats.num_drafted > 0
