"""The commands one after the other, on random models: files are the only thing that passes between them."""

import itertools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from specbound.cli.main import main
from specbound.decoding.sequence import Sequence
from specbound.decoding.step import Draft
from specbound.demo.config import DemoConfig
from specbound.evaluation.best_static import Ranked, StaticChoice
from specbound.evaluation.best_tree import TreeChoice
from specbound.evaluation.timing import ContentionProbe
from specbound.generation import generate as generation
from specbound_controller.actions import Action
from specbound_controller.controller import Controller
from specbound_controller.errors import InputError
from specbound_profiling.costs.measure import measure_costs
from specbound_train.config import TrainConfig

pytestmark = pytest.mark.usefixtures("short_search", "short_measurements")
WORDS = ("the cat sat on", "a dog ran under the", "one two and then", "def return ( )", "it was that", "the mat and a")
SMALL = ("--max-new-tokens", "16")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve short prompts of two kinds."""
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    rows = [{"prompt": f"{text} {extra}", "task": extra} for text in WORDS for extra in ("tree", "two")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def short_measurements() -> Iterator[None]:
    """Costs are measured, but not for half a minute each time."""
    short = partial(measure_costs, max_seconds=3.0)
    with pytest.MonkeyPatch.context() as patch:
        for module in ("recording.profile", "costs.measure"):  # of `profile`, and of what measures for other commands
            patch.setattr(f"specbound_profiling.{module}.measure_costs", short)
        yield


@pytest.fixture(scope="module")
def chain(
    tmp_path_factory: pytest.TempPathFactory,
    save_tiny_model: Callable[[Path, str, int], Path],
    prompts: Path,
    short_search: None,
    short_measurements: None,
) -> dict[str, Path]:
    """A random GPT-NeoX, profiled, and its controller."""
    root = tmp_path_factory.mktemp("chain")
    model = save_tiny_model(root / "model", "gpt_neox", 6)
    log, controller = root / "log", root / "controller"
    profile = ("profile", "--model", str(model), "--prompts", str(prompts), "--num-cost-steps", "60", *SMALL)
    assert main((*profile, "--out", str(log), "--json", str(root / "profile.json"))) == 0
    train = ("train-controller", "--log", str(log), "--out", str(controller), "--epochs", "2", "--max-rounds", "1")
    assert main((*train, "--json", str(root / "train.json"))) == 0
    return {"root": root, "model": model, "log": log, "controller": controller, "prompts": prompts}


@pytest.mark.parametrize(
    ("name", "methods"),
    [("profile", ["plain", "best_static", "oracle"]), ("train", ["plain", "best_static", "controller", "oracle"])],
)
def test_reports_of_replay_have_simulated_rows(chain: dict[str, Path], name: str, methods: list[str]) -> None:
    report = json.loads((chain["root"] / f"{name}.json").read_text())
    assert [row["method"] for row in report["rows"]] == methods
    assert all(row["simulated"] and row["tokens_per_second"] > 0 for row in report["rows"])
    assert report["model"]["num_layers"] == 6


def test_generate_with_the_trained_controller_equals_plain_decoding(
    chain: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ("generate", "--model", str(chain["model"]), "--prompt", "the cat and", "--max-new-tokens", "40")
    assert main((*argv, "--controller", str(chain["controller"]), "--compare", "--json", "-")) == 0
    report = json.loads(capsys.readouterr().out)
    controller, plain = report["rows"]
    assert (controller["method"], plain["method"]) == ("controller", "plain")
    assert controller["outputs_equal"] is True and controller["speedup"] > 0
    assert main(argv) == 0
    assert capsys.readouterr().out.strip() == report["text"].strip()


def test_controller_for_another_model_is_refused(
    chain: dict[str, Path], tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ("generate", "--model", str(tiny_model_dir), "--controller", str(chain["controller"]), "--prompt", "the cat")
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert "6 layers" in err and "4" in err and err.count("\n") == 1


def test_log_folder_of_another_run_is_refused_and_left_alone(
    chain: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    before = (chain["log"] / "manifest.json").read_bytes()
    argv = ("profile", "--model", str(chain["model"]), "--prompts", str(chain["prompts"]), "--out", str(chain["log"]))
    assert main((*argv, "--max-new-tokens", "17")) == 2
    err = capsys.readouterr().err
    assert "out holds another run" in err and err.count("\n") == 1
    assert (chain["log"] / "manifest.json").read_bytes() == before


def test_controller_folder_that_is_in_use_is_refused(
    chain: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(("train-controller", "--log", str(chain["log"]), "--out", str(chain["controller"]))) == 2
    assert "out must be empty or new" in capsys.readouterr().err


def test_log_without_enough_data_is_refused(
    chain: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    argv = ("profile", "--model", str(chain["model"]), "--prompts", str(chain["prompts"]), "--num-prompts", "1")
    assert main((*argv, "--max-new-tokens", "2", "--num-cost-steps", "30", "--out", str(log))) == 0
    capsys.readouterr()
    assert main(("train-controller", "--log", str(log), "--out", str(tmp_path / "controller"))) == 2
    err = capsys.readouterr().err
    assert err.startswith("specbound: error: ") and err.count("\n") == 1
    assert not (tmp_path / "controller" / "config.json").exists()


def test_evaluate_compares_the_trained_controller_with_the_setting_of_its_training(
    chain: dict[str, Path], tmp_path: Path
) -> None:
    file = tmp_path / "evaluate.json"
    argv = ("evaluate", "--model", str(chain["model"]), "--controller", str(chain["controller"]), "--rounds", "1")
    prompts = ("--prompts", str(chain["prompts"]), "--num-prompts", "5", "--max-new-tokens", "10", "--allow-noise")
    prompts += ("--num-tuning-prompts", "2", "--tuning-tokens", "8")
    assert main((*argv, *prompts, "--costs", str(chain["log"]), "--json", str(file))) == 0
    report = json.loads(file.read_text())
    totals = {row["method"]: row for row in report["rows"] if row["task"] == "all"}
    assert totals["controller"]["outputs_equal"] and totals["controller"]["decision_s_per_step"] > 0
    found = {each["other"]: each for each in report["comparisons"] if each["task"] == "all"}
    assert set(found) - {"best_static_annealed"} == {"plain", "best_static", "best_static_learned"}
    speeds = totals["controller"]["tokens_per_second"] / totals["best_static"]["tokens_per_second"]
    assert found["best_static"]["ratio"] == pytest.approx(speeds)
    assert found["plain"]["low"] <= found["plain"]["ratio"] <= found["plain"]["high"]
    assert any("controller come from these very prompts" in note for note in report["notes"])  # the very same prompts


def test_demo_prints_every_method_and_writes_the_rows(
    chain: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("specbound.demo.run.TrainConfig", partial(TrainConfig, epochs=2, max_rounds=1))
    report = tmp_path / "demo.json"
    options = {
        "--model": chain["model"],
        "--profile-prompts": chain["prompts"],
        "--evaluation-prompts": chain["prompts"],
        "--num-profile-prompts": 6,
        "--num-evaluation-prompts": 2,
        "--max-new-tokens": 12,
        "--num-cost-steps": 30,
        "--json": report,
        "--out": tmp_path / "run",
    }
    argv = ["demo", *(str(part) for pair in options.items() for part in pair)]
    assert main(argv) == 0
    out = capsys.readouterr().out
    rows = json.loads(report.read_text())["rows"]
    methods = {"transformers", "prompt_lookup", "plain", "best_static", "best_tree", "controller", "oracle"}
    assert {row["method"] for row in rows} == methods
    assert {row["task"] for row in rows} == {"tree", "two", "all"}
    assert all(row["outputs_equal"] is not False for row in rows)
    assert [row["simulated"] for row in rows if row["task"] == "all"] == [False] * 6 + [True]
    plain = next(row for row in rows if (row["method"], row["task"]) == ("plain", "all"))
    assert plain["tokens_per_step"] == 1.0 and plain["layer_calls_per_token"] == 6.0
    assert "transformers lookup" in out and "oracle*" in out and "the whole chain took" in out
    assert main(argv) == 2
    assert "out must be empty" in capsys.readouterr().err


@pytest.fixture
def demo_config(chain: dict[str, Path]) -> DemoConfig:
    return DemoConfig(
        num_profile_prompts=8,
        num_evaluation_prompts=2,
        max_new_tokens=12,
        num_cost_steps=60,
        num_rounds=1,
        allow_noise=False,
        model=str(chain["model"]),
        evaluation_prompts=str(chain["prompts"]),
    )


def run_evaluation(config: DemoConfig, chain: dict[str, Path]) -> Any:
    from specbound.demo.run import evaluate, evaluation_prompts
    from specbound_controller.controller import Controller
    from specbound_profiling.log.store import open_log

    log, controller = open_log(chain["log"]), Controller.load(chain["controller"])
    config = replace(config, profile_prompts=log.manifest.prompts, num_profile_prompts=log.manifest.num_prompts)
    return evaluate(config, evaluation_prompts(config), log, controller, lambda line: None)


@pytest.fixture
def without_race(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fastest fixed setting and the fastest tree are given."""
    fixed = (Ranked(Action(2, 2).name, 2.0, 2.0, 1), Ranked("plain", 1.0, 1.0, 1))
    choice = StaticChoice(0.0, fixed, 2, 1, "prompts", 0.0, "today", (1, 2))
    monkeypatch.setattr("specbound.demo.run.choose_static", lambda *arguments: choice)
    trees = (Ranked("tree3", 2.0, 2.0, 1), Ranked("plain", 1.0, 1.0, 1))
    monkeypatch.setattr(
        "specbound.demo.run.choose_tree", lambda *arguments: TreeChoice(trees, 1, "prompts", 0.0, "today")
    )


@pytest.mark.usefixtures("without_race")
def test_wrong_outputs_take_the_speedup_away_and_are_reported(
    chain: dict[str, Path], demo_config: DemoConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = Sequence.commit

    def commit_wrongly(sequence: Sequence, draft: Draft, logits: Tensor) -> tuple[list[int], int]:
        return commit(sequence, draft, logits.flip(-1) if draft.num_drafted else logits)

    monkeypatch.setattr(Sequence, "commit", commit_wrongly)
    result = run_evaluation(replace(demo_config, allow_noise=True), chain)
    static = [row for row in result.rows if row.method == "best_static"]
    assert not result.is_trustworthy
    assert all(math.isnan(row.speedup) for row in static) and static[-1].outputs_equal is False
    assert any("best_static differs from plain decoding at new token" in note for note in result.notes)


@pytest.mark.usefixtures("without_race")
@pytest.mark.parametrize("is_quiet", [True, False])
def test_a_noisy_machine_shows_no_speedup_unless_allowed(
    chain: dict[str, Path], demo_config: DemoConfig, monkeypatch: pytest.MonkeyPatch, is_quiet: bool
) -> None:
    monkeypatch.setattr(ContentionProbe, "is_quiet", is_quiet)
    result = run_evaluation(demo_config, chain)
    assert result.is_trustworthy is is_quiet
    assert all(math.isnan(row.speedup) is not is_quiet for row in result.rows)
    assert any("the machine was busy: the same" in note for note in result.notes) is not is_quiet


@pytest.mark.usefixtures("without_race")
def test_two_rounds_report_their_spread(chain: dict[str, Path], demo_config: DemoConfig) -> None:
    result = run_evaluation(replace(demo_config, num_rounds=2, num_evaluation_prompts=2), chain)
    assert any("over 2 rounds, least to most: transformers" in note for note in result.notes)


def test_an_evaluation_prompt_that_cannot_be_used_is_refused_before_profiling(
    chain: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ("demo", "--quick", "--model", str(chain["model"]), "--profile-prompts", str(chain["prompts"]))
    missing = ("--evaluation-prompts", str(tmp_path / "none.jsonl"))
    assert main((*argv, *missing)) == 2
    assert "[1/3]" not in capsys.readouterr().err


def test_evaluation_prompts_are_cut_to_the_room_of_the_model(demo_config: DemoConfig, tmp_path: Path) -> None:
    from specbound.demo.run import evaluation_prompts

    file = tmp_path / "long.jsonl"
    file.write_text(json.dumps({"prompt": "the cat " * 400, "task": "long"}) + "\n")
    (prompt,) = evaluation_prompts(replace(demo_config, evaluation_prompts=str(file)))
    assert prompt.input_ids.shape == (1, 512 - 12)


def test_a_home_folder_is_expanded(
    chain: dict[str, Path], demo_config: DemoConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from specbound.demo.run import run_demo

    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run" / "controller").mkdir(parents=True)
    with pytest.raises(InputError, match="no finished demo"):  # it has looked into the right folder
        run_demo(replace(demo_config, out="~/run"), print)
    report = ("--max-new-tokens", "1", "--json", "~/report.json", "--costs", str(chain["log"]))
    assert main(("generate", "--model", str(chain["model"]), "--prompt", "the cat", *report)) == 0
    assert (tmp_path / "report.json").exists()


def test_the_table_is_printed_even_where_the_report_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from specbound.demo.run import DemoResult

    def fail(report: Any, destination: str) -> None:
        raise InputError("no room")

    monkeypatch.setattr("specbound.demo.run.run_demo", lambda *arguments: DemoResult({}, [], ["a note"], True))
    monkeypatch.setattr("specbound.results.report.write_report", fail)
    assert main(("demo", "--json", "x.json")) == 2
    assert "a note" in capsys.readouterr().out


@pytest.mark.parametrize(("is_near_tie", "code"), [(True, 0), (False, 1)])
def test_compare_fails_where_a_difference_is_no_near_tie(
    chain: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    is_near_tie: bool,
    code: int,
) -> None:
    decode, num_calls = generation._decode, itertools.count()

    def decode_wrongly(*arguments: Any) -> Any:
        decoded = decode(*arguments)
        if next(num_calls) == 2:  # after the warm-up of both: the controller
            decoded.tokens[3] += 1
        return decoded

    monkeypatch.setattr(generation, "_decode", decode_wrongly)
    monkeypatch.setattr("specbound.evaluation.differences._is_explained", lambda *arguments: is_near_tie)
    argv = ("generate", "--model", str(chain["model"]), "--prompt", "the cat", *SMALL, "--compare")
    assert main((*argv, "--controller", str(chain["controller"]))) == code
    err = capsys.readouterr().err
    assert "at new token 3" in err and ("near-tie" in err) is is_near_tie and "speedup" not in err


def test_below_fp32_compare_shows_no_speedup(chain: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    argv = ("generate", "--model", str(chain["model"]), "--prompt", "the cat", "--max-new-tokens", "4", "--compare")
    main((*argv, "--controller", str(chain["controller"]), "--compression", "bf16", "--costs", str(chain["log"])))
    assert "speedup" not in capsys.readouterr().err


@pytest.fixture
def elsewhere(chain: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The controller with costs of another machine, and an empty home folder."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    controller = Controller.load(chain["controller"])
    costs = {"none": replace(controller.config.costs["none"], machine="an abacus")}
    replace(controller, config=replace(controller.config, costs=costs)).save(tmp_path / "controller")
    return tmp_path / "controller"


def test_costs_are_the_controllers_own_or_measured_once_or_given(
    chain: dict[str, Path], elsewhere: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ("generate", "--model", str(chain["model"]), "--prompt", "the cat", *SMALL, "--controller")

    def costs_used(*options: str) -> str:
        capsys.readouterr()
        assert main((*argv, *options)) == 0
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("costs", "warning"))]
        return line

    assert "the controller's own" in costs_used(str(chain["controller"]))
    assert "costs: measured on this machine, kept in" in costs_used(str(elsewhere))
    (kept,) = (tmp_path / "home").rglob("costs.json")
    assert "measured on this machine before" in costs_used(str(elsewhere))
    assert costs_used(str(elsewhere), "--costs", str(kept)) == f"costs: from {kept}"
    kept.write_text("{")
    assert "costs: measured on this machine, kept in" in costs_used(str(elsewhere))
    assert main((*argv, str(elsewhere), "--costs", str(tmp_path))) == 2
    assert "costs must be auto or a costs.json with compression 'none'" in capsys.readouterr().err


def test_costs_of_another_machine_are_a_warning_where_none_can_be_measured(
    chain: dict[str, Path], elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("specbound.pricing.local.importlib.util.find_spec", lambda name: None)
    argv = ("generate", "--model", str(chain["model"]), "--prompt", "the cat", *SMALL)
    assert main((*argv, "--controller", str(elsewhere))) == 0
    assert "warning: costs are from another machine (an abacus)" in capsys.readouterr().err
