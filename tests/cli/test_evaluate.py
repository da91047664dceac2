"""`specbound evaluate` on a random model: tables, files, and what becomes of finished levels when a later one fails."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from specbound.evaluation.timing import ContentionProbe

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def argv(tiny_log: Path, tiny_model_dir: Path, tmp_path: Path) -> tuple[str, ...]:
    """Two prompts, a fixed setting that is raced on others."""
    prompts = ("--prompts", str(tiny_log.parent / "prompts.jsonl"), "--num-prompts", "2", "--max-new-tokens", "10")
    others = tmp_path / "others.jsonl"
    others.write_text('{"prompt": "the cat and a dog"}\n{"prompt": "one tree was"}\n')
    tuning = ("--tuning-prompts", str(others), "--num-tuning-prompts", "2", "--tuning-tokens", "8")
    policies = (*tuning, "--policy", "best_static,best_static_annealed", "--costs", str(tiny_log))
    speed = ("--rounds", "1", "--allow-noise", "--w-max", "3")
    return ("evaluate", "--model", str(tiny_model_dir), *prompts, *policies, *speed)


def test_every_level_has_its_tables_and_the_files_hold_them_all(
    run: Run, argv: tuple[str, ...], tmp_path: Path
) -> None:
    out, report_file = tmp_path / "out", tmp_path / "report.json"
    code, text, err = run(*argv, "--compression", "none,bf16", "--out", str(out), "--json", str(report_file))
    assert code == 0, err
    assert "none, exactness token, greedy: 2 prompts" in text and "bf16, exactness bitwise, greedy" in text
    assert text.count("the fastest of 16 raced on 2 prompts of") == 2 and "of 217 by replay" in text
    assert "2 static settings race on 2 tuning prompts" in err
    report = json.loads(report_file.read_text())
    totals = [(r["compression"], r["method"], r["exactness"]) for r in report["rows"] if r["task"] == "all"]
    limits = ["best_static", "best_static_annealed", "oracle_grid", "oracle"]
    assert totals == [
        *(("none", name, "token") for name in ("transformers", "plain", *limits)),
        *(("bf16", name, "token") for name in ("transformers", "plain")),
        *(("bf16", name, "bitwise") for name in ("plain", *limits)),
    ]
    assert [level["compression"] for level in report["levels"]] == ["none", "bf16"]
    assert sorted(path.name for path in out.iterdir()) == ["evaluate.html", "evaluate.json", "evaluate.md"]
    assert json.loads((out / "evaluate.json").read_text())["rows"] == report["rows"]
    page = (out / "evaluate.html").read_text()
    assert page.count("data:image/png;base64,") == 1 and "http" not in page.replace("http-equiv", "")
    assert (out / "evaluate.md").read_text().count("### Speed") == 2


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError])
def test_finished_levels_are_kept_when_a_later_one_ends_badly(
    run: Run,
    argv: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: type[BaseException],
) -> None:
    import specbound.evaluation.run as module

    evaluate_level, calls = module.evaluate_level, iter(("first", "second"))

    def fail_at_the_second(*arguments: Any) -> Any:
        if next(calls) == "second":
            raise failure("out of luck")
        return evaluate_level(*arguments)

    monkeypatch.setattr(module, "evaluate_level", fail_at_the_second)
    out = tmp_path / "out"
    code, text, _ = run(*argv, "--compression", "none,bf16", "--out", str(out), "--json", "-")
    assert code == (130 if failure is KeyboardInterrupt else 1)
    kept = json.loads((out / "evaluate.json").read_text())
    assert {row["compression"] for row in kept["rows"]} == {"none"}
    assert json.loads(text)["rows"] == kept["rows"]
    assert not list(out.glob("*.partial"))


def test_a_write_that_is_interrupted_leaves_nothing_half_written(
    run: Run, argv: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:10])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    assert run(*argv, "--out", str(tmp_path / "out"))[0] == 130
    assert list((tmp_path / "out").iterdir()) == []


def test_a_busy_machine_is_a_failure_unless_allowed(
    run: Run, argv: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ContentionProbe, "is_quiet", False)
    code, text, _ = run(*(option for option in argv if option != "--allow-noise"))
    assert code == 1 and "no speedup is shown; --allow-noise shows it" in text


def test_the_training_prompts_are_named_as_such(argv: tuple[str, ...]) -> None:
    from specbound.evaluation.config import EvaluateConfig
    from specbound.evaluation.run import prompt_notes
    from specbound_profiling.prompts.files import load_prompts, prompts_hash

    file = argv[argv.index("--prompts") + 1]
    config, some, whole = EvaluateConfig(prompts=file, num_prompts=2), load_prompts(file, 2), load_prompts(file)
    hashes = {"controller": prompts_hash(whole), "policies": prompts_hash(some), "log": "other"}
    assert prompt_notes(config, some, hashes)[1].startswith("warning: controller and policies come from these very")
    assert len(prompt_notes(config, some, {"log": "other"})) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--policy", "svip"), "policy svip needs --policies"),
        (("--policy", "best_static_learned", "--controller", "none"), "best_static_learned needs --policies"),
        (("--tuning-prompts", "demo:evaluate"), "tuning_prompts must be other prompts than prompts"),
        (("--json", "/no/such/folder/x.json"), "--json must name a file in a folder that exists"),
        (("--compression", "int3"), "compression must be one of"),
        (("--controller", "none", "--policies", "nowhere.json"), "nowhere.json"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_decoded(run: Run, options: tuple[str, ...], message: str) -> None:
    code, text, err = run("evaluate", *options)
    assert code == 2 and text == ""
    assert message in err and err.count("\n") == 1


@pytest.fixture(autouse=True)
def wide_screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("COLUMNS", "140")
    yield
