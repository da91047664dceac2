"""`specbound sensitivity` and `specbound ablation` through the command line, with live points."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., tuple[int, str, str]]
SMALL = ("--alphas", "0,0.5,9", "--thresholds", "0.02,0.05", "--widths", "1,4", "--live-rounds", "2")
GIVEN = ("--alpha", "0.5", "--threshold", "0.05", "--d-max", "2", "--w-max", "3", "--exit-layers", "1,2,3")


@pytest.fixture
def study(run: Run, tiny_log: Path, tmp_path: Path) -> Callable[..., tuple[str, dict[str, Any]]]:
    """Runs a study; gives its Markdown file's text and its JSON."""

    def call(command: str, *options: str) -> tuple[str, dict[str, Any]]:
        out, report = tmp_path / command, tmp_path / f"{command}.json"
        where = ("--log", str(tiny_log), "--out", str(out), "--json", str(report))
        code, printed, err = run(command, *where, *SMALL, *options)
        assert code == 0, err
        text = (out / f"{command}.md").read_text(encoding="utf-8")
        assert text in printed and (out / f"{command}.png").read_bytes()[:4] == b"\x89PNG"
        return text, json.loads(report.read_text())

    return call


def test_sensitivity_replays_every_value_and_measures_some_live(
    study: Callable[..., tuple[str, dict[str, Any]]],
) -> None:
    text, report = study("sensitivity", *GIVEN, "--live", "3", "--live-prompts", "2")
    points = report["points"]
    labels = [point["label"] for point in points]
    assert labels == ["base", "alpha 0", "alpha 0.5", "threshold 0.02", "threshold 0.05",
                      "d_max 1", "d_max 2", "d_max 3", "w_max 1", "w_max 4"]  # fmt: skip
    assert {key: points[0][key] for key in ("alpha", "threshold", "d_max", "w_max")} == {
        "alpha": 0.5, "threshold": 0.05, "d_max": 2, "w_max": 3
    }  # fmt: skip
    assert points[2]["speedup"] == points[0]["speedup"]
    assert all(point["tokens_per_step"] >= 1 for point in points)
    plain, base = report["rows"]
    assert (plain["method"], plain["speedup"], base["speedup"]) == ("plain", 1.0, points[0]["speedup"])
    assert base["tokens_per_second"] / plain["tokens_per_second"] == pytest.approx(base["speedup"])

    live = {(item["policy"], item["item"]): item for item in report["live"]}
    assert {policy for policy, _ in live} == {"plain", "base", "alpha 0", "threshold 0.02"}
    for policy, item in live:
        if item == "tokens per step":  # exact: every roll-out was followed
            assert live[policy, item]["replayed"] == pytest.approx(live[policy, item]["live"])
    assert live["plain", "layer calls per token"]["live"] == 4
    assert "| plain | 2 | 1.00 / 1.00 (+0.0%) |" in text and "Base: alpha 0.5, threshold 0.05" in text


def test_ablation_searches_a_base_and_takes_parts_away(study: Callable[..., tuple[str, dict[str, Any]]]) -> None:
    text, report = study("ablation", "--compression", "bf16")
    labels = [point["label"] for point in report["points"]]
    parts = ["annealing", "the depth bound", "the width bound", "kept hidden states"]
    assert labels[::2] == labels[1::2] == ["all parts", *(f"without {part}" for part in parts)]
    fixed = {point["label"]: point for point in report["points"][::2]}
    assert fixed["without annealing"]["alpha"] == 0 and fixed["without the width bound"]["w_max"] == 16
    assert fixed["without kept hidden states"]["layer_calls_per_token"] > fixed["all parts"]["layer_calls_per_token"]
    assert fixed["without kept hidden states"]["tokens_per_step"] == fixed["all parts"]["tokens_per_step"]
    assert "searched on 6 prompts" in text and "replay of 4 other prompts at bf16" in text
    bare = next(line for line in text.splitlines() if line.startswith("| without kept hidden states"))
    assert "| – | -" in bare  # what of it is an estimate is not known; it is slower
    assert report["live"] == [] and report["rows"][1]["exactness"] == "bitwise"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--d-max", "1", "--exit-layers", "2,3"), "d_max must be at least the shallowest exit, 2, got 1"),
        (("--alpha", "5"), "alpha must be at most"),
        (("--threshold", "2"), "threshold must be in [0, 1]"),
        (("--thresholds", "2"), "threshold must be in [0, 1]"),
        (("--widths", "0"), "widths must be >= 1"),
        (("--exit-layers", "9"), "exit_layer must be one of the log's (1, 2, 3), got 9"),
        (("--compression", "nf4"), "compression must be one of the log's none, bf16, got 'nf4'"),
        (("--costs", "/no/such"), "costs must be"),
        (("--out", "/dev/null/x"), "out must be a folder that can be written"),
    ],
)
def test_bad_input_is_one_line(
    run: Run, tiny_log: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    code, out, err = run("sensitivity", "--log", str(tiny_log), "--out", str(tmp_path / "out"), *options)
    assert (code, out) == (2, ""), err
    assert message in err.splitlines()[-1], err
