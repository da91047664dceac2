"""`specbound bench` through the command line: all methods side by side, shapes, scaling, refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from specbound.bench.config import METHODS, BenchConfig
from specbound_controller.errors import InputError
from tests.cli.conftest import made_up_costs

Run = Callable[..., tuple[int, str, str]]
SMALL = ("--num-rounds", "1", "--allow-noise", "--max-new-tokens", "12", "--tuning-tokens", "12")
GRID = ("--tuned-lengths", "2", "--tuned-exit-layers", "1")


@pytest.fixture
def bench(run: Run, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Benches a random Llama on two questions, at made-up prices."""
    monkeypatch.setattr(
        "specbound.bench.run.required_costs", lambda loaded, *_, is_compiled: (made_up_costs(loaded), "costs: made up")
    )
    monkeypatch.setattr("specbound.bench.shape_run.measure_costs", made_up_costs)
    for name, texts in (("question", ("the cat", "a dog")), ("tuning", ("one two and then",))):
        rows = [{"question_id": i, "category": text[:1], "turns": [text]} for i, text in enumerate(texts)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    where = ("--model", str(tiny_model_dir), "--prompts", str(tmp_path / "question.jsonl"))
    tuning = ("--tuning-prompts", str(tmp_path / "tuning.jsonl"))
    return lambda *options: run("bench", *where, *tuning, *SMALL, *GRID, *options)


@pytest.mark.parametrize("options", [(), ("--sample", "--temperature", "0.7", "--exactness", "bitwise")])
def test_all_methods_side_by_side(bench: Run, tmp_path: Path, options: tuple[str, ...]) -> None:
    out, report = tmp_path / "out", tmp_path / "bench.json"
    code, text, err = bench("--out", str(out), "--json", str(report), *options)
    assert code == 0, text + err
    content: dict[str, Any] = json.loads(report.read_text())
    totals = [row for row in content["rows"] if row["task"] == "all"]
    ours = ["plain", "best_static", "best_tree"]
    theirs = [name for name in METHODS if name not in (*ours, "controller")]
    by_level = {level: [r["method"] for r in totals if r["exactness"] == level] for level in ("token", "bitwise")}
    # transformers' methods always stand beside plain decoding on the same kernels
    assert by_level == {"token": [*theirs, *(["plain"] if options else ours)], "bitwise": ours}
    is_sampled = bool(options)
    for row in totals:
        assert row["outputs_equal"] is (None if is_sampled and row["method"] in theirs else True), row
        assert row["speedup"] > 0 and row["num_prompts"] == 2 and row["time_to_first_token_s"] > 0
        has_prices = row["method"] in ours and not (is_sampled and row["exactness"] == "token")
        assert (row["model_share"] is not None) is has_prices
    assert {row["task"] for row in content["rows"]} == {"t", "a", "all"}
    assert any("best of" in note for note in content["notes"]) and "replayed_speedups" in content
    names = {path.name for path in out.iterdir()}
    assert names == {"bench.md", "speedup.png", "step_time.png", "exits_and_widths.png", "answers"}
    answers = [json.loads(line) for line in (out / "answers" / "transformers.jsonl").read_text().splitlines()]
    assert [answer["question_id"] for answer in answers] == [0, 1]
    assert "assistant_early_exit" in text and "speedup" in text


def test_a_shape_is_synthetic_everywhere(bench: Run, tmp_path: Path) -> None:
    report, out = tmp_path / "shape.json", tmp_path / "out"
    options = ("--shape", "tiny", "--tokens-per-step", "2", "--shape-widths", "2", "--num-prompts", "2")
    code, text, err = bench(*options, "--exactness", "token", "--json", str(report), "--out", str(out))
    assert code == 0, text + err
    content = json.loads(report.read_text())
    assert [row["method"] for row in content["rows"]] == ["transformers", "plain", "fixed_draft"]
    assert all(row["is_synthetic"] and row["task"] == "width 2" for row in content["rows"])
    assert content["model"]["is_synthetic"] and content["notes"][0].startswith("synthetic: a random model")
    assert content["rows"][2]["tokens_per_step"] == pytest.approx(2.0, abs=0.4)
    assert "synthetic" in (out / "bench.md").read_text() and not (out / "answers").exists()


def test_scaling_prints_fitted_growth(bench: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from specbound.bench import scaling

    monkeypatch.setitem(scaling.VALUES, "layers", (1, 2, 4))
    monkeypatch.setattr(scaling, "EXIT_LAYER", 1)
    report = tmp_path / "scaling.json"
    code, text, err = bench("--scaling", "layers", "--json", str(report), "--out", str(tmp_path / "out"))
    assert code == 0, text + err
    (series,) = json.loads(report.read_text())["scaling"]
    assert series["values"] == [1, 2, 4] and series["fit"]["slope_s"] > 0
    assert "layers" in text and "exponent" in text
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"scaling.md", "scaling_layers.png"}


def test_a_method_that_transformers_cannot_run_is_left_out_with_a_reason(
    bench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise IndexError("list index out of range")

    monkeypatch.setattr("transformers.generation.candidate_generator.EarlyExitCandidateGenerator.get_candidates", fail)
    code, text, err = bench(
        "--methods", "assistant_early_exit_default,best_static,static:exit1,width2", "--exactness", "token"
    )
    assert code == 0, text + err
    assert "static:exit1,width2" in text and "exit 1, two tokens" in text
    assert "assistant_early_exit_default is left out: IndexError: list index out of range" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--methods", "medusa"), "methods must be one of transformers, plain"),
        (("--methods", "controller"), "method controller needs a controller"),
        (("--scaling", "depth"), "scaling must be one of context, width"),
        (("--shape", "70b"), "shape must be one of tiny, small, 1b, 7b, 13b"),
        (("--shape", "7b", "--device", "cpu"), "shape 7b needs a GPU"),
        (("--shape", "tiny", "--tokens-per-step", "9"), "tokens_per_step must be above 1 and below the largest width"),
        (("--shape", "tiny", "--acceptance", "1"), "acceptance must be above 0 and below 1"),
        (
            ("--shape", "tiny", "--acceptance", "0.5", "--tokens-per-step", "2"),
            "must not be given with tokens_per_step",
        ),
        (("--shape", "tiny", "--scaling", "width"), "must not be given together"),
        (("--compile",), "exactness must be token alone with compile, got token,bitwise"),
        (
            ("--compile", "--exactness", "token", "--methods", "best_tree"),
            "methods must not hold best_tree with compile: captured graphs run chains only",
        ),
        (
            ("--compile", "--exactness", "token", "--methods", "tree7"),
            "methods must not hold tree7 with compile: captured graphs run chains only",
        ),
        (("--compile", "--exactness", "token", "--scaling", "width"), "must not be given with shape or scaling"),
        (("--compile", "--exactness", "token", "--device", "cpu"), "compile must be False on cpu"),
        (("--shape", "tiny", "--shape-exit-layer", "8"), "shape_exit_layer must be in [1, 7]"),
        (("--acceptance", "0.5"), "need shape"),
        (("--tuned-lengths", "0"), "tuned_lengths must be one or more numbers >= 1"),
        (("--exactness", "near"), "exactness must be one of token, bitwise"),
        (("--max-new-tokens", "4"), "max_new_tokens must be >= 8, got 4"),
        (("--prompts", "missing.jsonl"), "existing file"),
    ],
)
def test_wrong_options_are_one_line_and_exit_code_2(bench: Run, options: tuple[str, ...], message: str) -> None:
    code, out, err = bench(*options)
    assert (code, out) == (2, "")
    assert message in err and err.count("specbound: error: ") == 1 and "Traceback" not in err


def test_tuning_on_the_timed_prompts_is_refused() -> None:
    with pytest.raises(InputError, match="tuning_prompts must be other prompts than prompts"):
        BenchConfig(prompts="demo", tuning_prompts="demo:evaluate")
